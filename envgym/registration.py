"""Makes environments: from a YAML directly, or by id through Gymnasium.

import envgym, gymnasium as gym
env = gym.make("envgym/crm-v0", split="val")
env = gym.make(envgym.register("my/own.yaml"))
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envgym.spec.catalog import bundled_envs, find_env, id_of

if TYPE_CHECKING:
    import gymnasium

    from envgym.bridges.gymnasium import ForeignWorld
    from envgym.env import World
    from envgym.spec.environment import EnvSpec
    from envgym.tasks import Split

ENTRY_POINT = "envgym.registration:make"


def make_world(spec: EnvSpec) -> World | ForeignWorld:
    """What all episodes of an environment share; close it when done."""
    if spec.gym:
        from envgym.bridges.gymnasium import ForeignWorld

        return ForeignWorld(spec)
    from envgym.env import World

    return World(spec)


def make(
    name: str | Path,
    *,
    overrides: Iterable[str] = (),
    split: Split = "train",
    levels: Sequence[str] = (),
    render_mode: str | None = None,
) -> gymnasium.Env:
    """An environment that stands alone; closing it ends its sandbox.

    Args:
        name: path of a YAML file, or name or id of a known environment.
        overrides: `key.sub=value` settings, such as `sandbox.backend=local`.
        split, levels: where `reset` draws tasks from when it is not told one.
        render_mode: None or `ansi`.
    Raises: SpecError, PrerequisiteError.
    """
    from envgym.env import ToolEnv
    from envgym.spec.environment import load_spec

    spec = load_spec(name, overrides)
    if spec.gym:
        return make_world(spec).env(split=split, levels=levels, render_mode=render_mode)
    return ToolEnv(spec, split=split, levels=levels, render_mode=render_mode)


def register(name: str | Path) -> str:
    """Registers the environment of a YAML file with Gymnasium.

    Returns: its id, for `gym.make` and `gym.make_vec`. Registering the same file again changes nothing.
    Raises: SpecError.
    """
    from envgym.spec.environment import load_spec

    path = find_env(name).resolve()
    spec = load_spec(path)
    _register(spec.id, path)
    return spec.id


def _register(env_id: str, path: Path) -> None:
    import gymnasium

    known = gymnasium.registry.get(env_id)
    if known is not None and known.kwargs.get("name") == str(path):
        return
    gymnasium.register(
        env_id, entry_point=ENTRY_POINT, kwargs={"name": str(path)}, order_enforce=True
    )


def register_bundled() -> None:
    """Registers the shipped environments, by reading no more than their ids."""
    for path in bundled_envs().values():
        if env_id := id_of(path):
            _register(env_id, path)


def register_bundled_with_gymnasium() -> None:
    """Registers the shipped environments now if Gymnasium is loaded, else at the moment it is.

    Importing Gymnasium takes a quarter of a second, which `envgym --help` need not pay.
    """
    if "gymnasium" in sys.modules:
        register_bundled()
    elif not any(isinstance(finder, _AfterGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterGymnasium())  # type: ignore[arg-type]


class _AfterGymnasium:
    """Waits for the first import of `gymnasium`, steps aside, and has the environments registered right after it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "gymnasium":
            return None
        import importlib.util

        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec("gymnasium")
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            register_bundled()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
