"""Files that an environment's YAML names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from envgym.secrets.references import has_reference
from envgym.spec.tool_sources import OpenApiTools

if TYPE_CHECKING:
    from envgym.spec.environment import EnvSpec


def missing_files(spec: EnvSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the key and the name of each file that does not exist.

    A name with a reference to an environment variable is checked when it is used.
    """
    named = [
        (("tools",), tool.openapi if isinstance(tool, OpenApiTools) else tool)
        for tool in spec.tools
    ]
    named = [(at, tool) for at, tool in named if isinstance(tool, str)]
    named += [(("state", "schema"), spec.state.schema_file), (("state", "seed"), spec.state.seed)]
    named += [(("state", "files"), spec.state.files)]
    named += [(("tasks", "from"), spec.tasks.source)]
    named += [(("reward", name, "from"), part.source) for name, part in spec.reward.items()]
    named += [(("sandbox", "backend"), spec.sandbox.backend)]
    for at, reference in named:
        file = (reference or "").split(":")[0]
        if (
            file.endswith((".py", ".sql", ".yaml", ".yml", ".json"))
            and not has_reference(file)
            and not (spec.root / file).is_file()
        ):
            yield at, file
    if (build := spec.sandbox.build) and not (
        spec.root / build.context / build.dockerfile
    ).is_file():
        yield ("sandbox", "build"), f"{build.context}/{build.dockerfile}"
