"""When two turns of a group were taken from the same state: the anchors of step groups (GiGPO, arXiv 2505.10978, sec. 4.2).

Plain Python over the record of an episode. Left out: the sandbox's own state, which is hashed at reset only.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from envgym.episode import Episode
from envgym.messages import Message

Anchor = Literal["history", "observation"]


def anchor_states(episode: Episode, by: Anchor = "history") -> list[str]:
    """A key for the state before each turn of the policy; equal keys within a group are equal states.

    Args:
        by: "history": all that was said so far, from the same start: the state of the decision process exactly, but two ways to
            one place do not meet. "observation": what the environment said last, as in GiGPO's code: they meet, and so may
            different states that look alike.
    """
    keys = []
    seen = list[Message]()
    since = list[Message]()
    for message in episode.messages:
        if message.role == "assistant":
            keys.append(_hash(episode.start_hash, seen if by == "history" else since))
            since = []
        else:
            since.append(message)
        seen.append(message)
    return keys


def _hash(start: str, messages: list[Message]) -> str:
    text = repr((start, [(message.role, message.name, message.content) for message in messages]))
    return hashlib.sha256(text.encode()).hexdigest()
