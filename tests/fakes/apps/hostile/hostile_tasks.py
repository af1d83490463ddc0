"""Tasks with a hidden ground truth, which no sandbox may contain."""

from hostile_truth import ANSWER

TRUTH = f"the truth is {ANSWER}"
