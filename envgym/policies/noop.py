"""Policy `noop`: does nothing. It is the floor of an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envgym.policies.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from envgym.world import World


class NoopPolicy(ScriptedPolicy):
    """Answers "Done." in every turn."""

    def __init__(self) -> None:
        super().__init__(())


def open_policy(argument: str, world: World) -> NoopPolicy:
    """Return the policy; both arguments are ignored."""
    return NoopPolicy()
