"""envgym: a company's tools and tasks as a Gymnasium text environment, and a trainer that learns them.

Importing it registers the shipped environments with Gymnasium and loads nothing heavy; names below load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envgym.messages import Message, ToolCall
from envgym.registration import make, make_world, register, register_bundled_with_gymnasium
from envgym.tasks import Change, Draw, Task, Template, template

if TYPE_CHECKING:
    from envgym.env import ToolEnv, World
    from envgym.episode import Episode
    from envgym.play import Request, play, play_many
    from envgym.rubric import Evidence
    from envgym.spec import EnvSpec, load_spec

__version__ = "0.1.0"

_LAZY = {
    "Episode": "envgym.episode", "EnvSpec": "envgym.spec", "Evidence": "envgym.rubric", "Request": "envgym.play",
    "ToolEnv": "envgym.env", "World": "envgym.env", "load_spec": "envgym.spec", "play": "envgym.play", "play_many": "envgym.play",
}  # fmt: skip

__all__ = [
    "Change", "Draw", "EnvSpec", "Episode", "Evidence", "Message", "Request", "Task", "Template", "ToolCall", "ToolEnv", "World",
    "load_spec", "make", "make_world", "play", "play_many", "register", "template",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'envgym' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


register_bundled_with_gymnasium()
