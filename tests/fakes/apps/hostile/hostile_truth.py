"""What only tasks import."""

ANSWER = 7741
