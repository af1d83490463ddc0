"""envgym: a company's tools and tasks as a Gymnasium text environment, with a GRPO trainer.

Importing it registers the bundled environments with Gymnasium. All public names are imported from
here, on first use, so that the import is fast. `envgym.tasksets` has the functions that read tasks
from data files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envgym.registration import make, make_world, register, register_bundled_with_gymnasium

if TYPE_CHECKING:
    from envgym.block import Block
    from envgym.env import ToolEnv
    from envgym.episode import Episode, Failure
    from envgym.errors import (
        EnvgymError,
        PrerequisiteError,
        SpecError,
        ToolError,
        TooManyFailures,
        UsageError,
        WorldFailure,
    )
    from envgym.evaluation.checks import CheckResult, check
    from envgym.evaluation.evaluate import evaluate
    from envgym.evaluation.report import Outcome
    from envgym.messages import Message, ToolCall
    from envgym.playing import Request, play, play_many
    from envgym.policies import Completion, Dialogue, Policy, TokenTrace
    from envgym.policies.openai import OpenAIPolicy
    from envgym.policies.oracle import OraclePolicy
    from envgym.policies.random import RandomPolicy
    from envgym.policies.registry import open_policy
    from envgym.policies.scripted import ScriptedPolicy
    from envgym.rewards.evidence import Evidence
    from envgym.rewards.rubric import Rubric, Score, reward_part
    from envgym.sandbox import App, Sandbox, Session, ToolResult
    from envgym.sandbox.backends import open_sandbox
    from envgym.spec.environment import EnvSpec, load_spec
    from envgym.tasks import (
        ANY,
        NOTHING,
        SPLITS,
        Change,
        Check,
        Draw,
        Split,
        Task,
        Template,
        stable_seed,
        template,
    )
    from envgym.terms import Term
    from envgym.tools import Tool
    from envgym.world import Env, ResetInfo, StepInfo, TaskSet, World

__version__ = "0.1.0"

_HOMES = {
    "envgym.block": ("Block",),
    "envgym.env": ("ToolEnv",),
    "envgym.episode": ("Episode", "Failure"),
    "envgym.errors": (
        "EnvgymError",
        "PrerequisiteError",
        "SpecError",
        "TooManyFailures",
        "ToolError",
        "UsageError",
        "WorldFailure",
    ),
    "envgym.evaluation.checks": ("CheckResult", "check"),
    "envgym.evaluation.evaluate": ("evaluate",),
    "envgym.evaluation.report": ("Outcome",),
    "envgym.messages": ("Message", "ToolCall"),
    "envgym.playing": ("Request", "play", "play_many"),
    "envgym.policies": ("Completion", "Dialogue", "Policy", "TokenTrace"),
    "envgym.policies.openai": ("OpenAIPolicy",),
    "envgym.policies.oracle": ("OraclePolicy",),
    "envgym.policies.random": ("RandomPolicy",),
    "envgym.policies.registry": ("open_policy",),
    "envgym.policies.scripted": ("ScriptedPolicy",),
    "envgym.rewards.evidence": ("Evidence",),
    "envgym.rewards.rubric": ("Rubric", "Score", "reward_part"),
    "envgym.sandbox": ("App", "Sandbox", "Session", "ToolResult"),
    "envgym.sandbox.backends": ("open_sandbox",),
    "envgym.spec.environment": ("EnvSpec", "load_spec"),
    "envgym.tasks": (
        "ANY",
        "NOTHING",
        "SPLITS",
        "Change",
        "Check",
        "Draw",
        "Split",
        "Task",
        "Template",
        "stable_seed",
        "template",
    ),
    "envgym.terms": ("Term",),
    "envgym.tools": ("Tool",),
    "envgym.world": ("Env", "ResetInfo", "StepInfo", "TaskSet", "World"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ANY",
    "NOTHING",
    "SPLITS",
    "App",
    "Block",
    "Change",
    "Check",
    "CheckResult",
    "Completion",
    "Dialogue",
    "Draw",
    "Env",
    "EnvSpec",
    "EnvgymError",
    "Episode",
    "Evidence",
    "Failure",
    "Message",
    "OpenAIPolicy",
    "OraclePolicy",
    "Outcome",
    "Policy",
    "PrerequisiteError",
    "RandomPolicy",
    "Request",
    "ResetInfo",
    "Rubric",
    "Sandbox",
    "Score",
    "ScriptedPolicy",
    "Session",
    "SpecError",
    "Split",
    "StepInfo",
    "Task",
    "TaskSet",
    "Template",
    "Term",
    "TokenTrace",
    "TooManyFailures",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolError",
    "ToolResult",
    "UsageError",
    "World",
    "WorldFailure",
    "check",
    "evaluate",
    "load_spec",
    "make",
    "make_world",
    "open_policy",
    "open_sandbox",
    "play",
    "play_many",
    "register",
    "reward_part",
    "stable_seed",
    "template",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'envgym' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


register_bundled_with_gymnasium()
