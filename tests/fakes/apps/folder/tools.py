import os
import subprocess
from pathlib import Path


def sh(folder: Path, command: str) -> str:
    """Runs a shell command in the folder; what it starts in the background stays."""
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def deep(folder: Path, levels: int) -> str:
    """Makes folders in folders, deeper than a path may be long."""
    os.chdir(folder)
    for _ in range(levels):
        os.mkdir("deep-down")
        os.chdir("deep-down")
    return "made"


def here(folder: Path) -> bool:
    """Whether the current folder is the work folder."""
    return os.path.realpath(".") == os.path.realpath(folder)


def leave_running(folder: Path) -> str:
    """Starts what writes into the folder for as long as it lives."""
    subprocess.Popen(
        ["sh", "-c", "while true; do echo again >> notes/a.txt; sleep 0.05; done"], cwd=folder
    )
    return "started"


def where(folder: Path) -> str:
    """The absolute path of the folder."""
    return str(folder)
