"""Open a policy by its name: `oracle`, `openai:URL`, `adapter:PATH`, or `file.py:name`.

This folder is the registry: a file `NAME.py` with a function `open_policy(argument, world)` is the
policy `NAME`. If it needs an argument, the file also has a constant `EXAMPLE`, such as
"openai:http://localhost:8000/v1". Other packages add such functions through the entry-point group
`envgym.policies`. A policy that samples tokens has a third parameter, `sampling`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import envgym.policies
from envgym.errors import PrerequisiteError, UsageError, did_you_mean
from envgym.modules import load_object
from envgym.policies import Policy, SamplingOverrides

if TYPE_CHECKING:
    from envgym.spec.environment import EnvSpec
    from envgym.world import World

OpenPolicy = Callable[..., Policy]
"""Function of the text after the name (empty if there is none) and the world to play in. If it has
a parameter `sampling`, it gets the `SamplingOverrides` too."""
NO_OVERRIDES = SamplingOverrides()
EXAMPLES = {"adapter": "adapter:runs/crm/adapter", "model": "model:smollm2-135m-instruct"}
"""Examples of policies that another package adds, for error messages."""


def open_policy(text: str, world: World, *, sampling: SamplingOverrides = NO_OVERRIDES) -> Policy:
    """Return the policy that a text names.

    Args:
        text: `NAME` or `NAME:ARGUMENT` for a policy of this folder or of an entry point;
            `file.py:name` or `package.module:name`, each with an optional `:ARGUMENT`, for any
            other function of (argument, world). A file's path is relative to the current folder.
        world: World in which the policy will play.
        sampling: Sampling settings that replace those of the policy.

    Raises:
        UsageError: If there is no such policy, its argument is wrong, or it samples no tokens and
            `sampling` has a setting.
        SpecError: If the file, the module or the name in it does not exist.
        PrerequisiteError: If the policy needs a package that is not installed.
    """
    name, _, argument = text.partition(":")
    if module := _module(name):
        return _call(module.open_policy, name, argument, world, sampling)
    points = {point.name: point for point in entry_points(group="envgym.policies")}
    if name in points:
        return _open_point(points[name], argument, world, sampling)
    if name.endswith(".py") or "." in name:
        return _open_own(text, world, sampling)
    known = [*policy_names(), *points]
    raise UsageError(
        f"no policy '{text}'{did_you_mean(name, known) or '.'} "
        f"Available: {', '.join(known)}, or file.py:name for your own"
    )


@runtime_checkable
class HasSettings(Protocol):
    """Function that opens a policy which was made with settings of an environment."""

    def settings(self, argument: str, spec: EnvSpec) -> list[str]:
        """Return these settings as `key=value`, such as the form of the prompt.

        Args:
            argument: Argument of the policy.
            spec: Definition of the environment, as the user gave it.
        """
        ...


def policy_settings(text: str, spec: EnvSpec) -> list[str]:
    """Return the settings `key=value` of an environment that a policy needs.

    Args:
        text: Name of the policy, as for `open_policy`. Most policies have no such settings. A file
            of this folder may have a function `settings(argument, spec)`.
        spec: Definition of the environment, as the user gave it.

    Raises:
        UsageError: If the argument of the policy is wrong.
    """
    name, _, argument = text.partition(":")
    points = {point.name: point for point in entry_points(group="envgym.policies")}
    if module := _module(name):
        return module.settings(argument, spec) if isinstance(module, HasSettings) else []
    if name not in points or not argument:
        return []
    try:
        opener = points[name].load()
    except ImportError:
        return []  # `open_policy` reports it.
    return opener.settings(argument, spec) if isinstance(opener, HasSettings) else []


def policy_names() -> list[str]:
    """Return the names of all policies in this folder."""
    return [name for name in _file_names() if _module(name)]


def _file_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(envgym.policies.__path__)]


def _module(name: str) -> ModuleType | None:
    """Return the file of a policy, or None if this folder has no such policy."""
    if name not in _file_names() or name == __name__.rpartition(".")[2]:
        return None
    module = importlib.import_module(f"envgym.policies.{name}")
    return module if hasattr(module, "open_policy") else None


def _call(
    function: OpenPolicy,
    name: str,
    argument: str,
    world: World,
    sampling: SamplingOverrides,
) -> Policy:
    if "sampling" in inspect.signature(function).parameters:
        return function(argument, world, sampling=sampling)
    if sampling != NO_OVERRIDES:
        raise UsageError(
            f"policy '{name}' has no sampling settings. Leave out --temperature, "
            "--max-turn-tokens and --max-context-tokens"
        )
    return function(argument, world)


def _open_point(
    point: EntryPoint, argument: str, world: World, sampling: SamplingOverrides
) -> Policy:
    name = point.name
    if not argument:
        example = EXAMPLES.get(name, f"{name}:NAME")
        raise UsageError(
            f"policy '{name}' needs an argument, {name}:SOMETHING, for example {example}"
        )
    try:
        return _call(point.load(), name, argument, world, sampling)
    except ImportError as error:
        raise PrerequisiteError(
            f"policy '{name}' needs {error.name or error}. Install it: pip install 'envgym[train]'"
        ) from error


def _open_own(text: str, world: World, sampling: SamplingOverrides) -> Policy:
    source, name, argument = [*text.split(":", 2), "", ""][:3]
    reference = f"{source}:{name}" if name else source
    function = load_object(reference, Path())
    try:
        inspect.signature(function).bind(argument, world)
    except TypeError as error:
        raise UsageError(
            f"policy '{reference}' must be a function of (argument, world): {error}"
        ) from None
    policy = _call(function, reference, argument, world, sampling)
    if not isinstance(policy, Policy):
        raise UsageError(
            f"policy '{reference}' returned a {type(policy).__name__}, "
            "which has no method open() as in envgym.policies.Policy"
        )
    return policy
