"""Finds a policy by what people type: `oracle`, `random`, `openai:URL`, `adapter:PATH`.

Other packages add theirs through the entry-point group `envgym.policies`: a function of the text after the colon.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from envgym.errors import PrerequisiteError, UsageError, did_you_mean
from envgym.messages import ToolCall
from envgym.policies import Policy


def open_policy(text: str, world: Any) -> Policy:
    """The policy that `text` means, for the environments of `world`. Raises UsageError for a name that nobody offers."""
    name, _, argument = text.partition(":")
    if name in OWN:
        return OWN[name](argument, world)
    points = {point.name: point for point in entry_points(group="envgym.policies")}
    if name not in points:
        known = [*OWN, *points]
        raise UsageError(
            f"no policy '{text}'{did_you_mean(name, known)}. Available: {', '.join(known)}"
        )
    if not argument:
        raise UsageError(
            f"policy '{name}' needs to know which: {name}:SOMETHING, for example {EXAMPLES.get(name, name + ':NAME')}"
        )
    try:
        return points[name].load()(argument)
    except ImportError as error:
        raise PrerequisiteError(
            f"policy '{name}' needs {error.name or error}. Install it: pip install 'envgym[train]'"
        ) from error


EXAMPLES = {"adapter": "adapter:runs/crm/adapter", "model": "model:smollm2-135m-instruct"}


def _oracle(argument: str, world: Any) -> Policy:
    from envgym.policies.scripted import OraclePolicy

    return OraclePolicy(world.spec.prompt.dialects[0])


def _noop(argument: str, world: Any) -> Policy:
    from envgym.policies.scripted import NoopPolicy

    return NoopPolicy()


def _refuse(argument: str, world: Any) -> Policy:
    from envgym.policies.scripted import RefusePolicy

    return RefusePolicy(
        ToolCall("close_request", {"outcome": "refused", "reason": "not_allowed"}),
        world.spec.prompt.dialects[0],
    )


def _random(argument: str, world: Any) -> Policy:
    from envgym.policies.scripted import RandomPolicy

    return RandomPolicy(
        list(getattr(world, "tools", {}).values()), dialect=world.spec.prompt.dialects[0]
    )


def _human(argument: str, world: Any) -> Policy:
    from envgym.policies.human import HumanPolicy

    return HumanPolicy()


def _openai(argument: str, world: Any) -> Policy:
    from envgym.policies.openai import OpenAIPolicy

    return OpenAIPolicy.from_argument(argument)


OWN: dict[str, Callable[[str, Any], Policy]] = {
    "oracle": _oracle,
    "noop": _noop,
    "refuse": _refuse,
    "random": _random,
    "human": _human,
    "openai": _openai,
}
