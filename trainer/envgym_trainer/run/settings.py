"""Settings of a run, and their differences from other settings.

`config.yaml` holds the settings with which a run began and is never changed. If the run is resumed
with other settings, a line of `settings_changes.jsonl` records which ones changed, and after which
step. Both are data: reading them loads no code. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str, ...]
FREE: Sequence[Path] = (("train", "steps"), ("train", "output"), ("train", "checks"))
"""Settings that a resumed run may change without `--override`: they do not change its steps."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Setting that two configurations give different values."""

    path: Path
    run: Any
    """Value of the run."""
    given: Any
    """Value of the other configuration."""

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def is_free(self) -> bool:
        """Whether a resumed run may change this setting without `--override`."""
        return any(self.path[: len(free)] == free for free in FREE)

    @property
    def override(self) -> str:
        """Setting `key=value` that gives a run the other value."""
        return f"{self.key}={inline(self.given)}"

    def describe(self, given_by: str = "command line") -> str:
        """Return the difference as `KEY: run has X, GIVEN_BY has Y`."""
        return f"{self.key}: run has {inline(self.run)}, {given_by} has {inline(self.given)}"


def differences(run: Mapping[str, Any], given: Mapping[str, Any]) -> list[Difference]:
    """Return the settings that differ, each at the innermost key that both configurations have."""
    return list(_differences(run, given, ()))


def _differences(run: Any, given: Any, at: Path) -> Iterator[Difference]:
    if _is_equal(run, given):
        return
    # An override can only set a value: if a key is missing on one side, its whole block differs.
    is_inner = (
        isinstance(run, Mapping)
        and isinstance(given, Mapping)
        and run.keys() == given.keys()
        and not any("." in str(key) for key in run)
    )
    if not is_inner:
        yield Difference(at, run, given)
        return
    for key in run:
        yield from _differences(run[key], given[key], (*at, str(key)))


def _is_equal(run: Any, given: Any) -> bool:
    """Return whether two values are equal. True is not 1."""
    if isinstance(run, Mapping) and isinstance(given, Mapping):
        return run.keys() == given.keys() and all(_is_equal(run[key], given[key]) for key in run)
    if isinstance(run, list) and isinstance(given, list):
        return len(run) == len(given) and all(map(_is_equal, run, given))
    return isinstance(run, bool) == isinstance(given, bool) and run == given


class _Inline(yaml.SafeDumper):
    """Writer of YAML without line breaks and control characters."""


def _text(dumper: _Inline, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Inline.add_representer(str, _text)


def inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.dump(
        value,
        Dumper=_Inline,
        default_flow_style=True,
        allow_unicode=True,
        width=10**9,
        sort_keys=False,
    )
    return text.removesuffix("...\n").strip()


def changed_settings(lines: Iterable[Mapping[str, Any]], step: int | None = None) -> list[str]:
    """Return the settings `key=value` that a run's changes put in force, in order.

    Args:
        lines: Lines of `settings_changes.jsonl`.
        step: Step of the run. Default: after all changes.
    """
    return [
        setting
        for line in lines
        if step is None or line["after_step"] < step
        for setting in line["settings"]
    ]
