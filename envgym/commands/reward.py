"""`envgym reward score`: the reward block of an environment applied to answers in a file, to compare it with another scorer.

Nothing is played: each answer stands for an episode of one turn in which no tool was run and no table changed. So this is for
parts that judge text; one that looks at tables sees that nothing was done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envgym.errors import UsageError, WorldFailure

if TYPE_CHECKING:
    from envgym.rewards.rubric import Evidence, Rubric
    from envgym.spec.environment import EnvSpec

EXAMPLES = """one JSON object a line comes in, and one goes out:
  in    {"completion": what the model wrote, "truth": task.extra["truth"], "step": training step, "id": any}
  out   {"id": as given, or the line's number, "total": weighted sum, "parts": {name: value, or null where it does not apply}}
"step" and "id" may be left out.

example:
  printf '%s\\n' '{"completion": "<think>a</think>", "truth": "<think>b</think>"}' > cases.jsonl
  envgym reward score --spec toolrl cases.jsonl
  envgym reward score --spec toolrl --step 30 cases.jsonl reward.format.options.two_stage=true
"""


def add_reward(commands: Any) -> None:
    """Adds `envgym reward` and its own sub-command."""
    summary = "Score answers in a file with an environment's reward."
    parser = commands.add_parser("reward", help=summary, description=summary)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser = commands.add_parser(
        "score",
        help=summary,
        description=summary,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_score)
    parser.add_argument(
        "--spec",
        required=True,
        help="a YAML file, or the name or id of an environment (see `envgym list`)",
    )
    parser.add_argument(
        "--step", type=int, default=0, help="training step of the cases that name none (default 0)"
    )
    parser.add_argument("cases", help="JSONL file, or - for the standard input")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings over those of the YAML"
    )


def _score(arguments: argparse.Namespace) -> None:
    from envgym.spec.environment import load_spec

    spec = load_spec(arguments.spec, arguments.settings)
    for scored in score_cases(
        spec, _lines(arguments.cases), name=arguments.cases, step=arguments.step
    ):
        print(json.dumps(scored, ensure_ascii=False))


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
    """The scores of cases, one for each line that is not blank; see EXAMPLES for both forms.

    Args:
        name: of the file, for messages.
        step: training step of the cases that name none.
    Raises: UsageError naming `name:line`; SpecError for a part that does not exist.
    """
    from envgym.rewards.rubric import Rubric

    rubric = Rubric.from_spec(spec)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            case = {"id": number, "step": step} | _case(line, f"{name}:{number}")
            yield _scored(rubric, spec, case, f"{name}:{number}")


def _case(line: str, where: str) -> dict[str, Any]:
    try:
        case = json.loads(line)
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
    except WorldFailure as failure:  # here nobody else is to blame: the truth or an option is wrong
        raise UsageError(f"{where}: {failure.message}") from failure
    return {"id": case["id"], "total": score.reward, "parts": score.parts}


def _evidence(spec: EnvSpec, case: dict[str, Any]) -> Evidence:
    """An episode of one turn that changed nothing."""
    from envgym.dialects import parse
    from envgym.rewards.rubric import Evidence
    from envgym.rewards.state_diff import judge
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
        task, (), (), judge((), ()), final, 1, {mode: 1}, said=(text,), step=case["step"]
    )
