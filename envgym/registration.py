"""Create environments from a YAML file, or by id through Gymnasium.

>>> import gymnasium
>>> env = gymnasium.make("envgym/guess-v0", split="val")
>>> register("envs/guess.yaml")
'envgym/guess-v0'
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envgym.spec.catalog import bundled_envs, find_env, read_env_id

if TYPE_CHECKING:
    import gymnasium

    from envgym.spec.environment import EnvSpec
    from envgym.tasks import Split
    from envgym.world import World

ENTRY_POINT = "envgym.registration:make"


def make_world(spec: EnvSpec) -> World:
    """Create the world shared by all episodes of an environment. Close it after use.

    Args:
        spec: Definition of the environment.

    Returns:
        The world. Its `env()` makes environments, which threads may use in parallel.

    Raises:
        SpecError: If the tools, the tasks and the settings do not fit together.
        PrerequisiteError: If something must be installed or started first.
    """
    if spec.gym:
        from envgym.bridges.gymnasium import ForeignWorld

        return ForeignWorld(spec)
    from envgym.env import ToolWorld

    return ToolWorld(spec)


def make(
    name: str | Path,
    *,
    overrides: Iterable[str] = (),
    split: Split = "train",
    levels: Sequence[str] = (),
    render_mode: str | None = None,
) -> gymnasium.Env:
    """Create an environment with a private world. Closing it stops the sandbox.

    Args:
        name: Path of a YAML file, or name or id of a bundled environment.
        overrides: `key.sub=value` settings, such as `sandbox.backend=local`.
        split: Default split from which `reset` draws tasks.
        levels: Default levels of the tasks; empty for all.
        render_mode: None or `ansi`.

    Returns:
        The environment. Observations and actions are texts.

    Raises:
        SpecError: If the YAML or an override is wrong.
        PrerequisiteError: If something must be installed or started first.
    """
    from envgym.spec.environment import load_spec

    world = make_world(load_spec(name, overrides))
    try:
        return world.env(split=split, levels=levels, render_mode=render_mode, owns_world=True)
    except BaseException:
        world.close()
        raise


def register(name: str | Path) -> str:
    """Register the environment of a YAML file with Gymnasium.

    Registering the same file again has no effect.

    Args:
        name: Path of a YAML file, or name or id of a bundled environment.

    Returns:
        The id for `gym.make` and `gym.make_vec`.

    Raises:
        SpecError: If the YAML is wrong.
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
    """Register the bundled environments. Only their ids are read from the files."""
    for path in bundled_envs().values():
        if env_id := read_env_id(path):
            _register(env_id, path)


def register_bundled_with_gymnasium() -> None:
    """Register the bundled environments when Gymnasium is imported, or now if it is already.

    Importing Gymnasium takes about 0.25 seconds, which `envgym --help` should not need.
    """
    if "gymnasium" in sys.modules:
        register_bundled()
    elif not any(isinstance(finder, _AfterGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterGymnasium())  # type: ignore[arg-type]


class _AfterGymnasium:
    """Import hook that registers the environments after the first import of `gymnasium`."""

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
