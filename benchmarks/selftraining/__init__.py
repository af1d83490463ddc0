"""A small policy that trains itself by votes, until one answer everywhere is agreed on most; `selftrain.py` runs it."""
