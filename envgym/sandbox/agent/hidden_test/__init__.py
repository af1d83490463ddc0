"""Test runner of ours: the process that executes a hidden test. Standard library only."""
