"""Worlds for the policies of an evaluation: each plays with the prompt that it was made with."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from envgym.policies.registry import policy_settings
from envgym.registration import make_world
from envgym.spec.environment import EnvSpec, load_spec
from envgym.world import World


class PolicyWorlds:
    """Worlds of one environment, one for each form of the prompt. Close it after use.

    Args:
        env: Path of a YAML file, or name or id of a bundled environment.
        settings: `key=value` settings of the user. They override those of a policy.

    Raises:
        SpecError: If the YAML or a setting is wrong.
    """

    def __init__(self, env: str | Path, settings: Sequence[str]):
        self.env = env
        self.settings = list(settings)
        self.spec = load_spec(env, self.settings)
        self._worlds: list[World] = []

    def world_of(self, policy: str) -> World:
        """Return the world in which a policy plays, and print where its prompt differs."""
        own = policy_settings(policy, self.spec)
        spec = load_spec(self.env, [*own, *self.settings]) if own else self.spec
        for line in self._differences(policy, own, spec):
            print(line, file=sys.stderr)
        found = next((world for world in self._worlds if world.spec == spec), None)
        if found is None:
            found = make_world(spec)
            self._worlds.append(found)
        return found

    def close(self) -> None:
        """Close all worlds."""
        for world in self._worlds:
            world.close()

    def _differences(self, policy: str, own: Sequence[str], spec: EnvSpec) -> Iterator[str]:
        alone = load_spec(self.env, own) if own else spec
        is_resolved = self.spec.prompt.rendering == "auto"
        for setting in own:
            key = setting.partition("=")[0]
            if key == "prompt.rendering" and is_resolved:
                yield f"{policy}: {key}: {_text(_value(spec, key))}"
                continue
            used = _value(spec, key)
            if used != _value(alone, key):
                recorded = _text(_value(alone, key))
                yield f"{policy}: {key}: run has {recorded}, command line has {_text(used)}"
            elif used != _value(self.spec, key):
                given = _text(_value(self.spec, key))
                yield f"{policy}: {key}: run has {_text(used)}, {spec.path} has {given}; run's used"


def _value(spec: EnvSpec, key: str) -> Any:
    return reduce(getattr, key.split("."), spec)


def _text(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)
