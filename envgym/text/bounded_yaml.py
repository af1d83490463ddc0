"""Read YAML with limits on its depth and on the number of its values.

A few lines of aliases that refer to aliases stand for billions of values. The limits are checked
while the nodes are composed, before any value is built, and aliases count with the size of what
they stand for. Errors are `yaml.MarkedYAMLError`, with the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError


@dataclass(frozen=True, slots=True)
class YamlLimits:
    """Limits of one document."""

    megabytes: int = 4
    """Maximum size of the text in MiB. Checked by `check_size`."""
    depth: int = 64
    """Maximum number of nested lists and mappings."""
    values: int = 20_000
    """Maximum number of keys and values, with those that aliases stand for."""

    def check_size(self, size: int) -> None:
        """Raise yaml.YAMLError if a text of `size` bytes is too large."""
        if size > self.megabytes * 2**20:
            raise yaml.YAMLError(
                f"it has {size / 2**20:.1f} MiB, and at most {self.megabytes} MiB are read"
            )


DEFAULT = YamlLimits()


def load_yaml(
    text: str, *, loader: type[yaml.SafeLoader] = yaml.SafeLoader, limits: YamlLimits = DEFAULT
) -> tuple[Any, yaml.Node | None]:
    """Return the value of a document and its node.

    Args:
        text: The text of one document.
        loader: Loader that gives plain texts their types.
        limits: Limits of the document.

    Raises:
        yaml.YAMLError: If the text is not valid YAML or exceeds a limit.
    """
    limits.check_size(len(text.encode("utf-8", "surrogatepass")))
    kind = type("BoundedLoader", (_BoundedLoader, loader), {})
    reader = kind(text)
    reader.limits = limits
    try:
        node = reader.get_single_node()
        return (None if node is None else reader.construct_document(node)), node
    finally:
        reader.dispose()


class _BoundedLoader(yaml.SafeLoader):
    limits = DEFAULT

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0
        self._deepest = 0
        self._values = 0
        self._anchored: dict[str, tuple[int, int]] = {}
        """Values and height of each complete node with an anchor."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        outer, self._deepest = self._deepest, self._depth
        before = self._values
        if is_alias and event.anchor in self.anchors:
            if event.anchor not in self._anchored:
                self._refuse(f"the alias *{event.anchor} is inside of its own anchor", event)
            size, height = self._anchored[event.anchor]
            self._values += size
            self._deepest += height
        else:
            self._values += 1
        self._check(event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias and event.anchor is not None:
            self._anchored[event.anchor] = self._values - before, self._deepest - self._depth
        self._deepest = max(outer, self._deepest)
        return node

    def _check(self, event: yaml.Event) -> None:
        if self._deepest > self.limits.depth:
            self._refuse(f"more than {self.limits.depth} lists and mappings are nested", event)
        if self._values > self.limits.values:
            self._refuse(
                f"more than {self.limits.values:,} values, with those that aliases stand for", event
            )

    def _refuse(self, problem: str, event: yaml.Event) -> None:
        raise ComposerError(None, None, problem, event.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, LookupError, TypeError) as error:
            # Such as a date of a 13th month, or an integer with thousands of digits.
            raise ConstructorError(
                None, None, f"cannot be read: {error}", node.start_mark
            ) from None
