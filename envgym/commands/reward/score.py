"""Score answers in a file with an environment's reward.

One JSON object a line comes in, and one goes out:

  in    {"completion": model output, "truth": task.extra["truth"], "step": training step, "id": any}
  out   {"id": id or line number, "total": weighted sum, "parts": {name: value, or null}}

"step" and "id" are optional. A part is null if it does not apply. No episode is played: each answer
counts as an episode of one turn without tool calls and without changes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envgym.commands.arguments import add_settings, non_negative
from envgym.errors import UsageError, WorldFailure
from envgym.text import clean_value, to_json

if TYPE_CHECKING:
    from envgym.rewards.evidence import Evidence
    from envgym.rewards.rubric import Rubric
    from envgym.spec.environment import EnvSpec

EXAMPLE = """\
printf '%s\\n' '{"completion": "<think>a</think>", "truth": "<think>b</think>"}' > cases.jsonl
envgym reward score --spec toolrl cases.jsonl
envgym reward score --spec toolrl --step 30 cases.jsonl reward.format.options.two_stage=true"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment, the file of cases and the training step."""
    parser.add_argument(
        "--spec",
        required=True,
        help="a YAML file, or the name or id of an environment (see `envgym list`)",
    )
    parser.add_argument(
        "--step",
        type=non_negative,
        default=0,
        help="training step of cases without `step` (default 0)",
    )
    parser.add_argument("cases", help="JSONL file, or - for the standard input")
    add_settings(parser, "settings that override the YAML")


def run(arguments: argparse.Namespace) -> None:
    """Print the score of each case."""
    from envgym.spec.environment import load_spec

    spec = load_spec(arguments.spec, arguments.settings)
    for scored in score_cases(
        spec, _lines(arguments.cases), name=arguments.cases, step=arguments.step
    ):
        print(to_json(scored))


def _lines(cases: str) -> Iterable[str]:
    if cases == "-":
        return sys.stdin
    try:
        return Path(cases).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{cases}: cannot be read: {error}") from None


def score_cases(
    spec: EnvSpec, lines: Iterable[str], *, name: str, step: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield the score of each case, one per line that is not blank..

    Args:
        spec: Definition of the environment.
        lines: Cases as JSON.
        name: Name of the file, for error messages.
        step: Training step of cases without `step`.

    Raises:
        UsageError: If a line is invalid; the message begins with `name:line`.
        SpecError: If a part does not exist.
    """
    from envgym.rewards.rubric import Rubric

    with contextlib.closing(Rubric.from_spec(spec)) as rubric:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                case = {"id": number, "step": step} | _case(line, f"{name}:{number}")
                yield _scored(rubric, spec, case, f"{name}:{number}")


def _case(line: str, where: str) -> dict[str, Any]:
    try:
        case = clean_value(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(case, dict):
        raise UsageError(f"{where}: must be an object, got {type(case).__name__}")
    if missing := [key for key in ("completion", "truth") if key not in case]:
        raise UsageError(
            f"{where}: no '{missing[0]}'; a case has completion and truth, and may have step and id"
        )
    if not isinstance(case["completion"], str):
        raise UsageError(
            f"{where}: completion must be text, got {type(case['completion']).__name__}"
        )
    if type(case.get("step", 0)) is not int or case.get("step", 0) < 0:
        raise UsageError(f"{where}: step must be a whole number from 0, got {case['step']!r}")
    return case


def _scored(rubric: Rubric, spec: EnvSpec, case: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        score = rubric.score(_evidence(spec, case))
    except WorldFailure as failure:  # without a sandbox, only the truth or an option can be wrong
        raise UsageError(f"{where}: {failure.message}") from failure
    return {"id": case["id"], "total": score.reward, "parts": score.parts}


def _evidence(spec: EnvSpec, case: dict[str, Any]) -> Evidence:
    """Return the evidence of an episode of one turn without changes."""
    from envgym.dialects import parse
    from envgym.rewards.rubric import Evidence
    from envgym.rewards.state_diff import compare_changes
    from envgym.tasks import Task

    text = case["completion"]
    mode = parse(case["completion"], spec.prompt.dialects).mode
    task = Task(
        f"test/case/{case['id']}",
        prompt="",
        seed=0,
        split="test",
        template="case",
        extra={"truth": case["truth"]},
    )
    final = text if mode == "none" else ""
    return Evidence(
        task,
        (),
        (),
        compare_changes((), ()),
        final,
        1,
        {mode: 1},
        assistant_messages=(text,),
        step=case["step"],
    )
