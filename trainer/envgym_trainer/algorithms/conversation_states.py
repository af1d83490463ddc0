"""Keys of environment states, for GiGPO's step groups (arXiv 2505.10978, section 4.2).

The keys use the recorded messages. The sandbox's state is not part of them, because it is hashed
only at reset.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from envgym.episode import Episode
from envgym.messages import Message

Criterion = Literal["history", "observation"]


def state_keys(episode: Episode, by: Criterion = "history") -> list[str]:
    """Return a key for the state before each turn. Within a group, equal keys mean equal states.

    Args:
        episode: Recorded episode.
        by: "history" uses all messages since the start. It is exact, but two different ways to one
            state get different keys. "observation" uses only the last observation, as in GiGPO's
            code. Different ways are merged, and so may be different states that look the same.
    """
    keys = []
    start = hashlib.sha256(repr(episode.start_hash).encode())
    running = start.copy()
    for message in episode.messages:
        if message.role == "assistant":
            keys.append(running.hexdigest())
            if by == "observation":
                running = start.copy()
                continue
        running.update(_text(message))
    return keys


def _text(message: Message) -> bytes:
    return repr((message.role, message.name, message.content)).encode()
