"""Remove envgym's containers whose owner has ended; never those of a running one."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_json
from envgym.commands.sandbox.containers import add_engine, container_rows
from envgym.text import to_json
from envgym.text.terminal import print_line

EXAMPLE = "envgym sandbox gc"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the container engine."""
    add_engine(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the containers and return 1 if one of them cannot be removed."""
    from envgym.sandbox.containers.engine import connect
    from envgym.sandbox.containers.owners import reap_orphans

    api = connect(arguments.backend)
    before = {row["id"]: row for row in container_rows(api)}
    removed = [before[each[:12]] for each in reap_orphans(api) if each[:12] in before]
    after = container_rows(api)
    stuck = [row for row in after if row["owner"] == "gone"]
    if arguments.json:
        print(to_json({"removed": removed, "kept": after}, indent=2))
        return 1 if stuck else 0
    for row in removed:
        print_line(
            f"removed {row['id']}: {row['image']}, {row['state']}, owner {row['owner_pid']} is gone"
        )
    for row in stuck:
        print_line(f"cannot remove {row['id']}: the engine refuses, try: docker rm -f {row['id']}")
    print_line(f"{len(removed)} removed, {len(after)} kept")
    return 1 if stuck else 0
