"""Pack the agent and an app's files into the tar archive that a container receives.

Unlike a mount, a copy works with remote engines and any file modes, and all boxes of a sandbox run
the same version of the files. The archive contains the folders of the app's files without the app's
hidden files, which hold the tasks' true answers.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from envgym.errors import SpecError
from envgym.sandbox import App

AGENT = Path(__file__).parent / "agent"
MOST_FILES = 5000
MOST_BYTES = 64 * 2**20
LEFT_OUT = ("__pycache__", "node_modules")


def pack(app: App) -> bytes:
    """Return a tar archive with `agent/` and `app/`, readable by all users, writable by root only.

    Raises:
        SpecError: If a file lies outside the app's folder, is hidden, or the archive is too large.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted(AGENT.rglob("*.py")):
            _add(archive, f"agent/{file.relative_to(AGENT).as_posix()}", file.read_bytes())
        size = 0
        for count, file in enumerate(_files(app)):
            data = file.read_bytes()
            size += len(data)
            if count >= MOST_FILES or size > MOST_BYTES:
                limits = f"{MOST_FILES} files or {MOST_BYTES >> 20} MiB"
                advice = "Move tools, schema and seed into a separate folder."
                raise SpecError(
                    f"{app.root}: the folders of the app's files hold more than {limits}. {advice}"
                )
            _add(archive, f"app/{file.relative_to(app.root).as_posix()}", data)
    return buffer.getvalue()


def _files(app: App) -> Iterator[Path]:
    references = [
        *app.tools,
        *filter(None, (app.schema, app.seed, app.files)),
        *_files_of_servers(app),
    ]
    for reference in references:
        path = PurePosixPath(reference)
        if path.is_absolute() or ".." in path.parts:
            raise SpecError(
                f"{reference}: is outside {app.root}; a container gets only files below that "
                "folder. Move it there"
            )
        if reference.partition(":")[0] in app.hidden:
            advice = "Move the code for the box into a separate file, or use sandbox.backend=local."
            raise SpecError(
                f"{reference}: this file also defines tasks or rewards, which a container must "
                f"not contain. {advice}"
            )
    folders = {
        app.root / PurePosixPath(reference.partition(":")[0]).parent for reference in references
    }
    for folder in sorted(folders):
        if not any(parent in folders for parent in folder.parents):
            yield from (
                file
                for file in _below(folder)
                if file.relative_to(app.root).as_posix() not in app.hidden
            )


def _files_of_servers(app: App) -> Iterator[str]:
    """Yield the words of the servers' commands that are files of the app."""
    for word in (word for server in app.servers for word in server.command):
        if not PurePosixPath(word).is_absolute() and (app.root / word).is_file():
            yield word


def _below(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in LEFT_OUT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _below(entry)
        elif entry.is_file():
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
