"""Finds environments by name: a path, a bundled name (`crm`), or a Gymnasium id (`envgym/crm-v0`)."""

from __future__ import annotations

import re
from pathlib import Path

from envgym.errors import SpecError, did_you_mean

_HERE = Path(__file__).parent


def bundled_folder() -> Path:
    """Where the shipped environments lie: inside the installed package, or `envs/` of a checkout."""
    installed = _HERE / "_envs"
    return installed if installed.is_dir() else _HERE.parent / "envs"


def bundled_envs() -> dict[str, Path]:
    """Name -> YAML file of each shipped environment."""
    return {path.stem: path for path in sorted(bundled_folder().glob("*.yaml"))}


def id_of(path: Path) -> str | None:
    """The `id:` of a YAML file, read without parsing the rest; None where there is none."""
    found = re.search(
        r"^id:[ \t]*['\"]?([^\s'\"#]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return found.group(1) if found else None


def find_env(name: str | Path) -> Path:
    """The YAML file that `name` means. Raises SpecError with what is known."""
    path = Path(name)
    if path.is_file():
        return path
    known = bundled_envs()
    if str(name) in known:
        return known[str(name)]
    by_id = {id_of(file): file for file in known.values()}
    if str(name) in by_id:
        return by_id[str(name)]
    if path.suffix in {".yaml", ".yml"}:
        raise SpecError(
            f"{path}: no such file{did_you_mean(path.stem, known)}. Shipped environments: {', '.join(known)}"
        )
    raise SpecError(
        f"no environment '{name}'{did_you_mean(str(name), known)}. Shipped: {', '.join(known)}; or give the path of a YAML file."
    )
