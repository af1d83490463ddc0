"""An environment must have a tool; no task offers this one, as an answer is judged by what it says and not carried out."""


def unused() -> str:
    """Does nothing."""
    return ""
