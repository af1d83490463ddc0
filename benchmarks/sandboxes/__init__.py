"""Measurements of `benchmarks/sandbox.py`."""
