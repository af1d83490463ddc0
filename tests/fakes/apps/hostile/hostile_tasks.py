"""Tasks with a hidden truth: what no box may hold."""

from hostile_truth import ANSWER

TRUTH = f"the truth is {ANSWER}"
