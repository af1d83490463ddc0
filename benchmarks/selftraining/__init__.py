"""A small policy that trains itself by votes, until it finds that one answer everywhere is agreed on most; `selftrain.py` runs it."""
