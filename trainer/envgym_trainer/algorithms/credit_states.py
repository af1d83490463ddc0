"""Keys of environment states, for GiGPO's step groups (arXiv 2505.10978, section 4.2).

The keys use the recorded messages. The sandbox's state is not part of them, because it is hashed
only at reset.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from envgym.episode import Episode
from envgym.messages import Message

Anchor = Literal["history", "observation"]


def anchor_states(episode: Episode, by: Anchor = "history") -> list[str]:
    """Return a key for the state before each turn. Within a group, equal keys mean equal states.

    Args:
        episode: Recorded episode.
        by: "history" uses all messages since the start. It is exact, but two different ways to one
            state get different keys. "observation" uses only the last observation, as in GiGPO's
            code. Different ways are merged, and so may be different states that look the same.
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
