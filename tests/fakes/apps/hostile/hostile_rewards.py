"""A reward that would tell what it looks for."""


def found_out(evidence) -> float:
    return float("7741" in evidence.final_message)
