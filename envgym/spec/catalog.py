"""Find an environment by path, by bundled name (`crm`) or by Gymnasium id (`envgym/crm-v0`)."""

from __future__ import annotations

import re
from pathlib import Path

from envgym.errors import SpecError, did_you_mean

_PACKAGE = Path(__file__).parents[1]


def bundled_folder() -> Path:
    """Return the folder of the bundled environments.

    It is in the installed package, or `envs/` in a checkout.
    """
    installed = _PACKAGE / "_envs"
    return installed if installed.is_dir() else _PACKAGE.parent / "envs"


def bundled_envs() -> dict[str, Path]:
    """Return the YAML file of each bundled environment, by name."""
    return {path.stem: path for path in sorted(bundled_folder().glob("*.yaml"))}


def read_env_id(path: Path) -> str | None:
    """Return the `id:` of a YAML file, or None if it has no id. Avoids parsing the whole file."""
    found = re.search(
        r"^id:[ \t]*['\"]?([^\s'\"#]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return found.group(1) if found else None


def find_env(name: str | Path) -> Path:
    """Return the path of the YAML file that `name` refers to.

    Raises:
        SpecError: If there is no such file, bundled name or id. The message lists the bundled
            names.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = bundled_envs()
    if str(name) in known:
        return known[str(name)]
    by_id = {read_env_id(file): file for file in known.values()}
    if str(name) in by_id:
        return by_id[str(name)]
    if path.suffix in {".yaml", ".yml"}:
        raise SpecError(
            f"{path}: no such file{did_you_mean(path.stem, known)}. "
            f"Shipped environments: {', '.join(known)}"
        )
    raise SpecError(
        f"no environment '{name}'{did_you_mean(str(name), known)}. "
        f"Shipped: {', '.join(known)}; or give the path of a YAML file."
    )
