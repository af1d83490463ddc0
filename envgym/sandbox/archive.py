"""Pack the agent and an app's files into the tar archive that a container receives.

Unlike a mount, a copy works with remote engines and any file modes, and all boxes of a sandbox run
the same version of the files. The archive contains the files of a list, never whole folders: the
files that the app names, the Python files that they import, and `App.extra_files`. So data of tasks
and rewards stays out. Links that lead out of the app's folder are refused.
"""

from __future__ import annotations

import glob
import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from envgym.errors import SpecError
from envgym.sandbox import App
from envgym.sandbox.hidden_files import module_files, with_imports

AGENT = Path(__file__).parent / "agent"
MOST_FILES = 5000
MOST_BYTES = 64 * 2**20
LEFT_OUT = ("__pycache__", "node_modules")


def pack(app: App) -> bytes:
    """Return a tar archive with `agent/` and `app/`, readable by all users, writable by root only.

    Raises:
        SpecError: If a file lies outside the app's folder, is hidden, or the archive is too large.
    """
    entries = agent_files()
    size = 0
    for count, (path, file) in enumerate(listed_files(app).items()):
        data = file.read_bytes()
        size += len(data)
        if count >= MOST_FILES or size > MOST_BYTES:
            raise SpecError(
                f"{app.root}: the files of the box are more than {MOST_FILES} files or "
                f"{MOST_BYTES >> 20} MiB. List fewer in sandbox.files, or build an image that "
                "holds the data (sandbox.build)."
            )
        entries[f"app/{path}"] = data
    return tar_of(entries)


def agent_files() -> dict[str, bytes]:
    """Return the agent's files by their path in the box."""
    return {
        f"agent/{file.relative_to(AGENT).as_posix()}": file.read_bytes()
        for file in sorted(AGENT.rglob("*.py"))
    }


def tar_of(entries: dict[str, bytes]) -> bytes:
    """Return an uncompressed tar archive of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries.items():
            _add(archive, name, data)
    return buffer.getvalue()


def listed_files(app: App) -> dict[str, Path]:
    """Return the files of the app that its boxes get, by their path relative to the app's folder.

    Raises:
        SpecError: If a file lies outside the app's folder or is hidden, a link leads out of the
            folder, or a pattern of `extra_files` matches nothing.
    """
    root = app.root
    named = list(_named(app))
    for path in named:
        _check_reference(path, app)
    missing = [path for path in named if not (root / path).is_file()]
    if missing:
        raise SpecError(f"{root / missing[0]}: no such file")
    files = with_imports({root / path for path in named}, root)
    files |= {file for server in app.servers for file in _modules_of(server.command, root)}
    paths = {file.relative_to(root).as_posix(): file for file in files if file.is_relative_to(root)}
    for pattern in app.extra_files:
        paths |= _matches(pattern, app)
    for path, file in paths.items():
        _check_link(path, file, app)
    return dict(sorted(paths.items()))


def _named(app: App) -> Iterator[str]:
    """Yield the paths that the app's references name."""
    for reference in (*app.tools, *filter(None, (app.schema, app.seed, app.files))):
        yield reference.partition(":")[0]
    for word in (word for server in app.servers for word in server.command):
        if not PurePosixPath(word).is_absolute() and (app.root / word).is_file():
            yield word


def _modules_of(command: Iterable[str], root: Path) -> set[Path]:
    """Return the files below `root` of the modules that a command runs with `-m`."""
    words = list(command)
    modules = [name for flag, name in itertools.pairwise(words) if flag == "-m"]
    starts = {
        file
        for name in modules
        for one in (name, f"{name}.__main__")
        for file in module_files(root, one)
    }
    return with_imports(starts, root)


def _check_reference(path: str, app: App) -> None:
    """Raise SpecError if a reference leads out of the app's folder or names a hidden file."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise SpecError(
            f"{path}: is outside {app.root}; a container gets only files below that "
            "folder. Move it there"
        )
    if path in app.hidden:
        advice = "Move the code for the box into a separate file, or use sandbox.backend=none."
        raise SpecError(
            f"{path}: this file also defines tasks or rewards, which a container must "
            f"not contain. {advice}"
        )


def _matches(pattern: str, app: App) -> dict[str, Path]:
    """Return the files that one pattern of `extra_files` names; a folder stands for all below."""
    where = f"sandbox.files: '{pattern}'"
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise SpecError(f"{where}: is outside {app.root}. Move the files below that folder")
    if pattern in app.hidden:
        raise SpecError(
            f"{where}: this file defines tasks or rewards, which a box must not contain"
        )
    found = [app.root / path for path in sorted(glob.glob(pattern, root_dir=app.root))]
    files = [file for place in found for file in (_below(place) if place.is_dir() else [place])]
    paths = {file.relative_to(app.root).as_posix(): file for file in files}
    kept = {path: file for path, file in paths.items() if path not in app.hidden}
    for path in kept if list(kept) != [pattern] else ():
        if reader := _only_hidden_reader(PurePosixPath(path).name, app):
            raise SpecError(
                f"{where}: {path} is read by {reader}, whose data a box must not contain, and by "
                "no file of the box. Use a pattern without it, or list the file by its own path"
            )
    if not kept:
        raise SpecError(f"{where}: matches no file in {app.root}")
    return kept


def _only_hidden_reader(name: str, app: App) -> str:
    """Return the hidden Python file that names a file, unless a file of the box names it too."""
    boxed = with_imports({app.root / path for path in _named(app)}, app.root)
    if any(name in _text(file) for file in boxed):
        return ""
    hidden = [path for path in app.hidden if path.endswith(".py")]
    return next((path for path in hidden if name in _text(app.root / path)), "")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _check_link(path: str, file: Path, app: App) -> None:
    """Raise SpecError if a file is a link, or lies behind one, that a box must not follow."""
    target = file.resolve()
    root = app.root.resolve()
    if not target.is_relative_to(root):
        raise SpecError(
            f"{app.root / path}: is a link that leads out of {app.root}, to {target}. Boxes get no "
            "files from elsewhere: replace the link by a copy, or remove it"
        )
    if target.relative_to(root).as_posix() in app.hidden:
        raise SpecError(
            f"{app.root / path}: is a link to {target}, which defines tasks or rewards. A box must "
            "not contain it"
        )
    if not file.is_file():
        raise SpecError(f"{app.root / path}: is not a file")


def _below(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in LEFT_OUT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _below(entry)
        else:
            yield entry


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # Add folders explicitly; the engine would create missing ones with an arbitrary mode.
    for parent in reversed(PurePosixPath(name).parents[:-1]):
        if str(parent) not in archive.getnames():
            folder = tarfile.TarInfo(str(parent))
            folder.type = tarfile.DIRTYPE
            folder.mode = 0o755
            archive.addfile(folder)
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(data))
