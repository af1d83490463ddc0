"""Rewards: the rubric, its parts, the scores that they use, and the state diff."""
