"""The definition of an environment asks for a tool; no task here offers one."""


def note(text: str) -> str:
    """Write something down

    Args:
        text: what to write down.
    """
    return text
