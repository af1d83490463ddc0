"""An environment needs a tool, and here no task offers one: this is for people who try `envgym play`."""


def families() -> str:
    """The kinds of tasks there are."""
    return "intent, entailment, duplicates"
