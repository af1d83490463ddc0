"""A module that only the tasks import."""

ANSWER = 7741
