"""Show the parts of an episode's reward and advantage.

The printed numbers add up.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from envgym.text import terminal, to_json, visible
from envgym.text.terminal import cell
from envgym_trainer.run.explain import Explanation, Line, Overview, explain, overview, plain
from envgym_trainer.run.folder import RunFolder

EXAMPLE = "envgym explain runs/crm 12:3"
PLACES = 4
"""Decimals of numbers that are added up."""
ASKED_LINES = 4
SAID_CHARACTERS = 60


def add(parser: argparse.ArgumentParser) -> None:
    """Add the run and the episode."""
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="folder of a run, such as runs/crm"
    )
    parser.add_argument(
        "episode",
        nargs="?",
        metavar="EPISODE",
        help="such as 12:3, the third episode of step 12 (default: list the last step)",
    )
    parser.add_argument(
        "--env",
        help="environment whose files describe the parts (default: the shipped one with the "
        "run's id; no code of a run folder is loaded)",
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print one episode, or the episodes of the last step."""
    folder = RunFolder.open(arguments.folder)
    if arguments.episode:
        explained = explain(folder, arguments.episode, env=arguments.env)
        print_episode(explained, as_json=arguments.json)
    else:
        print_overview(overview(folder), as_json=arguments.json)


def print_overview(
    episodes: Sequence[Overview], *, as_json: bool = False, console: Console | None = None
) -> None:
    """Print one line for each episode."""
    if as_json:
        print(to_json(plain(episodes), indent=2))
        return
    table = _table(
        ("episode", "left"),
        ("task", "left"),
        ("reward", "right"),
        ("advantage", "right"),
        ("success", "left"),
        ("largest part", "left"),
    )
    for each in episodes:
        table.add_row(
            cell(each.episode),
            cell(each.task),
            _fixed(each.reward),
            _fixed(each.advantage, sign=True),
            _result(each.success, each.reward),
            cell(each.largest or "-"),
        )
    (console or terminal.Console()).print(table)


def print_episode(
    explained: Explanation, *, as_json: bool = False, console: Console | None = None
) -> None:
    """Print one episode: prompt, final message, table of reward terms, and details of each term."""
    if as_json:
        print(to_json(plain(explained), indent=2))
        return
    console = console or terminal.Console()
    _say(console, head(explained))
    if explained.parts:
        console.print(parts_table(explained))
    _say(console, [line for part in explained.parts for line in particulars(part, explained)])
    _say(console, [f"note: {note}" for note in explained.notes])


def head(explained: Explanation) -> list[str]:
    """Return the lines above the table: task, prompt, final message and result."""
    asked = [line for line in explained.asked.splitlines() if line.strip()]
    more = [f"... {len(asked) - ASKED_LINES} more lines"] if len(asked) > ASKED_LINES else []
    where = " · ".join(filter(None, (explained.task, explained.level)))
    lines = [f"episode {explained.episode} of {explained.run} · {where}"]
    lines += [f"  prompt  {line}" for line in [*asked[:ASKED_LINES], *more]]
    lines += [f"  answer  {shortened(explained.said)}"]
    if explained.failure:
        return [
            *lines,
            f"  result  void: {explained.failure}. It has no reward and was not used for training.",
        ]
    advantage = (
        _unlearned(explained)
        if explained.advantage is None
        else f"advantage {_fixed(explained.advantage, sign=True)}"
    )
    result = f"{_result(explained.success, explained.reward)} · {explained.stop_reason}"
    return [*lines, f"  result  {result} · reward {_fixed(explained.reward)} · {advantage}"]


def parts_table(explained: Explanation) -> Table:
    """Return the table of reward terms. The printed numbers of its last two columns add up."""
    contributions = summed([part.contribution for part in explained.parts])
    advantages = summed([part.advantage for part in explained.parts], sign=True)
    table = _table(
        ("part", "left"),
        ("raw", "right"),
        ("range", "right"),
        ("gate", "left"),
        ("value", "right"),
        ("weight", "right"),
        ("contribution", "right"),
        ("advantage", "right"),
    )
    for part, contribution, advantage in zip(
        explained.parts, contributions[:-1], advantages[:-1], strict=True
    ):
        table.add_row(
            cell(part.name),
            _short(part.raw),
            _range(part),
            _gate(part),
            _short(part.value),
            _short(part.weight),
            contribution,
            advantage,
        )
    table.add_section()
    table.add_row("sum", "", "", "", "", "", contributions[-1], advantages[-1], style="bold")
    return table


def particulars(part: Line, explained: Explanation) -> Iterator[str]:
    """Yield the description of a term, then its schedule, gate, values by turn and group values."""
    kind = {True: "grounded", False: "not grounded", None: ""}[part.is_grounded]
    origin = ", ".join(filter(None, (part.source and f"from {part.source}", kind)))
    yield f"{part.name}: {part.rule or 'no description'}" + (f" ({origin})" if origin else "")
    if part.schedule:
        points = ", ".join(f"{step}: {weight:g}" for step, weight in part.schedule.items())
        yield (
            f"    weight by schedule {{{points}}}: {_short(part.weight_of_config)} "
            f"at GRPO step {explained.schedule_step}"
        )
    if (
        part.weight is not None
        and part.weight_of_config is not None
        and not math.isclose(part.weight, part.weight_of_config)
    ):
        yield (
            f"    weight {_short(part.weight)} from train.reward_weights; "
            f"{_short(part.weight_of_config)} in the settings"
        )
    if part.scale == "running":
        yield "    value divided by its running standard deviation over the run"
    if part.weight is not None and part.raw is None:
        yield "    did not apply"
    if part.gate and part.gate["on"]:
        yield f"    gate on {part.gate['on']} >= {part.gate['at_least']:g}: {_gate(part)}"
    if part.by_turn:
        yield "    by turn: " + ", ".join(
            f"{turn}: {_short(value)}" for turn, value in enumerate(part.by_turn, start=1)
        )
    for vote in part.siblings:
        mark = ">" if vote["episode"] == explained.episode else " "
        value = "did not apply" if vote["value"] is None else _short(vote["value"])
        yield f"  {mark} {vote['episode']:>6}  {value:>8}  {shortened(vote['said'])}"


def summed(
    values: Sequence[float | None], *, sign: bool = False, places: int = PLACES
) -> list[str]:
    """Round values so that they add up to the printed sum (largest-remainder method).

    Args:
        values: Numbers to add up. `None` is printed as `-` and counts as 0.
        sign: Print a plus sign before positive numbers.
        places: Decimals.

    Returns:
        The printed values, followed by their sum.
    """
    unit = 10**places
    exact = [0.0 if value is None else value * unit for value in values]
    units = [math.floor(value) for value in exact]
    missing = round(math.fsum(exact)) - sum(units)
    for n in sorted(range(len(exact)), key=lambda n: units[n] - exact[n])[:missing]:
        units[n] += 1
    shown = [
        None if value is None else each / unit for value, each in zip(values, units, strict=True)
    ]
    whole = sum(units) / unit if any(value is not None for value in values) else None
    return [_fixed(value, sign=sign, places=places) for value in [*shown, whole]]


def shortened(text: str, limit: int = SAID_CHARACTERS) -> str:
    """Return the end of a text on one line. The answer usually comes last."""
    line = " ".join(text.split())
    return line if len(line) <= limit else "..." + line[len(line) - limit :]


def _unlearned(explained: Explanation) -> str:
    return f"no advantage: {explained.excluded or 'its group has no reward variance'}"


def _range(part: Line) -> str:
    if part.range is None:
        return ""
    clip = f" clip {part.clip[0]:g}..{part.clip[1]:g}" if part.clip else ""
    return f"{part.range[0]:g}..{part.range[1]:g}{clip}"


def _gate(part: Line) -> str:
    return "" if part.gate is None else "open" if part.gate["is_open"] else "closed"


def _result(success: bool | None, reward: float | None) -> str:
    return (
        "void"
        if reward is None
        else {True: "solved", False: "not solved", None: "success unknown"}[success]
    )


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, justify in columns:
        is_number = justify == "right"
        table.add_column(name, justify=justify, no_wrap=is_number, overflow="fold")  # type: ignore
    return table


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _fixed(value: float | None, *, sign: bool = False, places: int = PLACES) -> str:
    return "-" if value is None else f"{value + 0.0:{'+' if sign else ''}.{places}f}"


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(Text(visible(line)), soft_wrap=True)
