"""Tools that execute code written by a model, inside the session's process and in programs."""

import subprocess


def python(db, folder, code: str) -> str:
    """Run Python code in this process.

    Args:
        code: Code. `db` is the database, `folder` the work folder; `say(text)` shows a text.
    """
    said = []
    exec(code, {"db": db, "folder": folder, "say": said.append, "__name__": "model"})
    return "\n".join(map(str, said))


def shell(folder, command: str) -> str:
    """Run a shell command in the work folder.

    Args:
        command: The command.
    """
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, errors="replace"
    )
    return done.stdout + done.stderr
