"""envgym: a company's tools and tasks as a Gymnasium text environment, with a GRPO trainer.

Importing it registers the bundled environments with Gymnasium. The public names are imported on
first use, so that the import is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envgym.registration import make, make_world, register, register_bundled_with_gymnasium

if TYPE_CHECKING:
    from envgym.env import ToolEnv, ToolWorld
    from envgym.episode import Episode
    from envgym.errors import PrerequisiteError
    from envgym.messages import Message, ToolCall
    from envgym.play import Request, play, play_many
    from envgym.rewards.evidence import Evidence
    from envgym.rewards.rubric import reward_part
    from envgym.spec.environment import EnvSpec, load_spec
    from envgym.tasks import ANY, SPLITS, Change, Check, Draw, Task, Template, stable_seed, template
    from envgym.tasksets.toolrl_rows import row_template, rows_from
    from envgym.tasksets.toolrl_variants import irrelevant_rows
    from envgym.world import Env, ResetInfo, StepInfo, TaskSet, World

__version__ = "0.1.0"

_HOMES = {
    "envgym.tasksets.toolrl_rows": ("row_template", "rows_from"),
    "envgym.tasksets.toolrl_variants": ("irrelevant_rows",),
    "envgym.env": ("ToolEnv", "ToolWorld"),
    "envgym.episode": ("Episode",),
    "envgym.errors": ("PrerequisiteError",),
    "envgym.messages": ("Message", "ToolCall"),
    "envgym.play": ("Request", "play", "play_many"),
    "envgym.rewards.evidence": ("Evidence",),
    "envgym.rewards.rubric": ("reward_part",),
    "envgym.spec.environment": ("EnvSpec", "load_spec"),
    "envgym.tasks": (
        "ANY",
        "SPLITS",
        "Change",
        "Check",
        "Draw",
        "Task",
        "Template",
        "stable_seed",
        "template",
    ),
    "envgym.world": ("Env", "ResetInfo", "StepInfo", "TaskSet", "World"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ANY",
    "SPLITS",
    "Change",
    "Check",
    "Draw",
    "Env",
    "EnvSpec",
    "Episode",
    "Evidence",
    "Message",
    "PrerequisiteError",
    "Request",
    "ResetInfo",
    "StepInfo",
    "Task",
    "TaskSet",
    "Template",
    "ToolCall",
    "ToolEnv",
    "ToolWorld",
    "World",
    "irrelevant_rows",
    "load_spec",
    "make",
    "make_world",
    "play",
    "play_many",
    "register",
    "reward_part",
    "row_template",
    "rows_from",
    "stable_seed",
    "template",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'envgym' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


register_bundled_with_gymnasium()
