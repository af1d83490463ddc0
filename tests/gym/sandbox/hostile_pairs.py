"""Pairs of sessions with hostile tools."""

import json
import uuid
from dataclasses import replace
from pathlib import Path

from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.hidden_files import hidden_files
from envgym.spec.environment import load_spec
from envgym.tool_sandbox import build_app
from tests.fakes import APPS
from tests.fakes.kiosk_app import BUBBLEWRAP, DOCKER, call, options

HOSTILE = replace(
    build_app(load_spec("guess")),
    root=APPS,
    tools=("hostile/tools.py",),
    schema="hostile/schema.sql",
    seed=None,
    hidden=hidden_files(
        APPS,
        secret=["hostile/hostile_tasks.py", "hostile/hostile_rewards.py:x"],
        needed=["hostile/tools.py"],
    ),
)
WALLS = [*DOCKER[1:], *BUBBLEWRAP[1:]]


def pool_of(kind: tuple[str, str]) -> dict:
    """Return pool settings for two sessions.

    Sessions share one container if the level permits it. A second one is needed after a
    neighbour's leftovers have made the first unusable.
    """
    return {"boxes": 6, "ready": 0} if kind[1] == "container" else {"boxes": 2}


def as_program(session, name: str, timeout_seconds: float = 60, **arguments):
    """Return a tool's result from a program that the session starts."""
    text = call(
        session, "as_program", timeout_seconds, name=name, arguments=json.dumps(arguments)
    ).text
    return json.loads(text)


class Pair:
    """A neighbour that has left its marks, and a spy."""

    def __init__(self, kind: tuple[str, str]):
        self.level, self.mark = kind[1], f"mark-{uuid.uuid4().hex}"
        self.sandbox = open_sandbox(HOSTILE, options(kind, pool=pool_of(kind)))
        self.keeper_is_process_1 = kind[0] == "docker" and kind[1] != "fork"
        self.neighbour, self.spy = (self.sandbox.open(seed=7, timeout_seconds=60) for _ in range(2))
        self.place = self.do(self.neighbour, "settle", mark=self.mark)

    def do(self, session, tool: str, **arguments):
        """Return a tool's result, parsed if it is JSON."""
        text = call(session, tool, 60, **arguments).text
        return json.loads(text) if text[:1] in "[{" else text

    def found(self) -> list[int]:
        """Return the process ids of the neighbour's program that the spy sees."""
        return [
            int(line.split()[0]) for line in self.do(self.spy, "processes") if self.mark in line
        ]


def diff_of(session):
    return session.diff(timeout_seconds=60)


def on_host(mark: str) -> bool:
    """Return whether a process on this machine, containers included, has a mark in its command."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes():
                return True
        except OSError:
            continue
    return False
