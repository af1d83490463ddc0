"""Compare an adapter behind servers with the same adapter in this process, greedily.

    envgym serve runs/crm --port 8001
    python benchmarks/served.py envs/crm.yaml runs/crm --levels L0 \\
        --server "envgym serve=http://127.0.0.1:8001/v1" --markdown table.md

A server is played by a plain client: the official `openai` package, the YAML's system sentence,
the user's message and `tools=`. Structured calls of its answers are made in the environment, and
their results go back as messages of role `tool`. Two transcripts are equal if all calls, results
and the answer are. The interval is that of the paired difference of success (normal approximation
over tasks).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from envgym.dialects import parse, write_calls
from envgym.episode import Episode
from envgym.errors import EnvgymError
from envgym.evaluation.policy_worlds import PolicyWorlds
from envgym.messages import ToolCall
from envgym.playing import play
from envgym.policies import SamplingOverrides
from envgym.policies.registry import open_policy
from envgym.world import World

CONSOLE = Console(stderr=True)


@dataclass(frozen=True)
class Played:
    """One task as one policy played it."""

    solved: bool
    transcript: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="example: python benchmarks/served.py envs/guess.yaml runs/guess --server "
        '"envgym serve=http://127.0.0.1:8000/v1"',
    )
    parser.add_argument("env", help="YAML file, or name of an environment")
    parser.add_argument("run", help="run folder, or its adapter folder")
    parser.add_argument(
        "--server", action="append", required=True, metavar="LABEL=URL[#MODEL]", dest="servers"
    )
    parser.add_argument("--levels", nargs="*", default=[])
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8, help="conversations at once")
    parser.add_argument("--markdown", type=Path, help="append the table to this file")
    parser.add_argument("settings", nargs="*", help="key=value settings of the environment")
    given = parser.parse_intermixed_args(arguments)
    worlds = PolicyWorlds(given.env, given.settings)
    try:
        local = worlds.world_of(f"adapter:{given.run}")
        tasks = list(local.tasks.ids("test", levels=tuple(given.levels), count=given.tasks))
        here = in_process(local, given.run, tasks, clients=given.clients)
        world = native_world(given)
        print_row(("", "solved", "difference, points (95 %)", "equal transcripts"), given.markdown)
        print_row(("---",) * 4, given.markdown)
        print_row(row("this process", here, here), given.markdown)
        for server in given.servers:
            label, _, url = server.partition("=")
            started = time.monotonic()
            played = by_clients(world, url, tasks, clients=given.clients)
            print(f"{label}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            print_row(row(label, played, here), given.markdown)
        world.close()
    except EnvgymError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        worlds.close()
    return 0


def print_row(cells: Sequence[str], file: Path | None) -> None:
    """Print a row of the table, and append it to the file, as soon as it is measured."""
    line = f"| {' | '.join(cells)} |"
    print(line, flush=True)
    if file:
        with file.open("a", encoding="utf-8") as table:
            table.write(line + "\n")


def native_world(given: argparse.Namespace) -> World:
    """Return the world of a plain client: tools are schemas, not text of the system message."""
    native = PolicyWorlds(given.env, [*given.settings, "prompt.rendering=native"])
    return native.world_of("oracle")


def in_process(world: World, run: str, tasks: Sequence[str], *, clients: int) -> list[Played]:
    """Play the tasks with the in-process engine."""
    policy = open_policy(f"adapter:{run}", world, sampling=SamplingOverrides(temperature=0.0))

    def one(task: str) -> Played:
        with world.env(split="test") as env:
            return _record(play(env, policy, seed=0, task=task), world)

    with ThreadPoolExecutor(clients) as pool:
        found = pool.map(one, tasks)
        return list(track(found, "this process", total=len(tasks), console=CONSOLE))


def by_clients(world: World, url: str, tasks: Sequence[str], *, clients: int) -> list[Played]:
    """Play the tasks with plain clients of a server."""
    import openai

    address, _, model = url.partition("#")
    client = openai.OpenAI(base_url=address, api_key="none", timeout=600)
    name = model or client.models.list().data[0].id
    with ThreadPoolExecutor(clients) as pool:
        found = pool.map(lambda task: play_plainly(world, client, name, task), tasks)
        return list(track(found, url, total=len(tasks), console=CONSOLE))


def play_plainly(world: World, client: Any, model: str, task: str) -> Played:
    """Play one task as an application does: send `tools=`, make the calls, send the results."""
    dialect = world.spec.prompt.dialects[0]
    limit = world.spec.train.get("rollout", {}).get("max_turn_tokens", 256)
    transcript: list[str] = []
    with world.env(split="test") as env:
        _, info = env.reset(options={"task": task})
        messages: list[Any] = [dict(message) for message in info["messages"]]
        while True:
            answer = client.chat.completions.create(
                model=model,
                messages=messages,
                tools=info["tools"],
                temperature=0.0,
                max_tokens=limit,
            )
            message = answer.choices[0].message
            messages.append(message.to_dict())
            calls = [
                ToolCall(call.function.name, _arguments(call.function.arguments))
                for call in message.tool_calls or ()
            ]
            text = write_calls(calls, dialect) if calls else message.content or ""
            transcript.append(_described(calls, message.content))
            _, _, terminated, truncated, step = env.step(text)
            if terminated or truncated:
                return Played(step.get("success") is True, tuple(transcript))
            replies = [reply["content"] for reply in step["messages"]]
            transcript += replies
            for call, reply in zip(message.tool_calls or (None,), replies, strict=False):
                own = {"tool_call_id": call.id} if call else {"tool_call_id": "none"}
                messages.append({"role": "tool", "content": reply, **own})


def row(label: str, played: Sequence[Played], here: Sequence[Played]) -> tuple[str, ...]:
    """Return the line of the table for one server."""
    pairs = list(zip(played, here, strict=True))
    gaps = [100.0 * (one.solved - other.solved) for one, other in pairs]
    spread = 1.96 * statistics.pstdev(gaps) / len(gaps) ** 0.5
    mean = statistics.fmean(gaps)
    equal = sum(one.transcript == other.transcript for one, other in pairs)
    solved = sum(each.solved for each in played)
    interval = f"{mean:+.1f} ({mean - spread:+.1f} to {mean + spread:+.1f})"
    return (
        label,
        f"{solved} of {len(played)}",
        "" if played is here else interval,
        "" if played is here else f"{equal} of {len(played)}",
    )


def _record(episode: Episode, world: World) -> Played:
    transcript = []
    for message in episode.messages[2:]:  # after the system message and the task
        if message.role == "assistant":
            found = parse(message.content, world.spec.prompt.dialects, known=world.tools)
            content = message.content if found.problem else found.content
            transcript.append(_described(found.calls, content))
        else:
            transcript.append(message.content)
    return Played(episode.success is True, tuple(transcript))


def _arguments(text: str) -> dict[str, Any]:
    return json.loads(text or "{}")


def _described(calls: Sequence[ToolCall], content: str | None) -> str:
    if not calls:
        return (content or "").strip()
    return json.dumps([call.to_dict() for call in calls], sort_keys=True, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
