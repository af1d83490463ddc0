"""`envgym reward score`: scores for cases, and errors with file and line."""

import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from envgym.commands import main
from envgym.commands.reward.score import EXAMPLE, score_cases
from envgym.spec.environment import load_spec

CALL = '<think>a</think>\n<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>'
TALK = "<think>a</think>\n<response>b</response>"
SWITCHES = ["reward.format.options.two_stage=true", "reward.correctness.options.two_stage=true"]


def cases(folder, *records):
    file = folder / "cases.jsonl"
    file.write_text(
        "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records),
        encoding="utf-8",
    )
    return str(file)


def scored(capsys, *words):
    code = main(["reward", "score", "--spec", "toolrl", *words])
    assert code == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_case_gives_one_line_with_its_parts(tmp_path, capsys):
    wrong = CALL.replace(": 1", ": 2")
    right = {"id": "x", "completion": CALL, "truth": CALL}
    near = {"completion": wrong, "truth": CALL}
    file = cases(tmp_path, right, "", near, {"completion": TALK, "truth": TALK})
    assert scored(capsys, file) == [
        {"id": "x", "total": 4.0, "parts": {"solved": 1.0, "format": 1.0, "correctness": 3.0}},
        {
            "id": 3,
            "total": pytest.approx(2.0),
            "parts": {"solved": 0.0, "format": 1.0, "correctness": pytest.approx(1.0)},
        },  # 2/3
        {"id": 4, "total": 1.0, "parts": {"solved": 1.0, "format": 1.0, "correctness": None}},
    ]


def test_a_case_has_its_own_step_or_that_of_the_command(tmp_path, capsys):
    file = cases(
        tmp_path,
        {"completion": CALL, "truth": CALL},
        {"completion": CALL, "truth": CALL, "step": 29},
    )
    assert [case["total"] for case in scored(capsys, "--step", "30", file, *SWITCHES)] == [
        3.5,
        2.0,
    ]  # 0.5 + 3, then 1 + 1
    assert [case["total"] for case in scored(capsys, file, *SWITCHES)] == [2.0, 2.0]


def test_cases_may_come_from_the_standard_input(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "stdin", io.StringIO(json.dumps({"completion": TALK, "truth": TALK}) + "\n")
    )
    assert scored(capsys, "-")[0]["total"] == 1.0


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ("{", "cases.jsonl:2: not valid JSON"),
        ("[]", "cases.jsonl:2: must be an object, got list"),
        ({"completion": ""}, "cases.jsonl:2: no 'truth'; a case has completion and truth"),
        ({"completion": 3, "truth": ""}, "cases.jsonl:2: completion must be text, got int"),
        (
            {"completion": "", "truth": "", "step": -1},
            "cases.jsonl:2: step must be a whole number from 0, got -1",
        ),
        (
            {"completion": "", "truth": "", "step": True},
            "cases.jsonl:2: step must be a whole number",
        ),
        (
            {"completion": "", "truth": "<tool_call>x</tool_call>"},
            "cases.jsonl:2: .* truth: line 1 .* is not JSON",
        ),
        (
            {"completion": "", "truth": {"name": "f"}},
            "cases.jsonl:2: .* must be a right answer as text, got dict",
        ),
    ],
)
def test_a_wrong_case_is_told_with_file_and_line_after_those_before_it(
    record, what, tmp_path, capsys
):
    assert (
        main(
            [
                "reward",
                "score",
                "--spec",
                "toolrl",
                cases(tmp_path, {"completion": TALK, "truth": TALK}, record),
            ]
        )
        == 2
    )
    told = capsys.readouterr()
    assert json.loads(told.out)["total"] == 1.0
    assert re.search(what, told.err), told.err


def test_other_mistakes_are_told_too(tmp_path, capsys):
    file = cases(tmp_path, {"completion": TALK, "truth": TALK})
    assert main(["reward", "score", "--spec", "toolrl", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    assert (
        main(["reward", "score", "--spec", "toolrl", file, "reward.format.options.two_stag=true"])
        == 2
    )
    assert "did you mean 'two_stage'" in capsys.readouterr().err
    assert main(["reward", "score", "--spec", "toolr", file]) == 2
    assert "did you mean 'toolrl'" in capsys.readouterr().err


def test_a_completion_is_an_episode_of_one_turn():
    others = ["reward.turns={from: turns, weight: 0.0}", "reward.told={from: facts_told}"]
    spec = load_spec("toolrl", [*others, "prompt.dialects=[hermes]"])
    (case,) = score_cases(spec, [json.dumps({"completion": CALL, "truth": CALL})], name="-")
    assert (case["parts"]["turns"], case["parts"]["told"], case["total"]) == (1.0, None, 4.0)


def test_the_example_of_the_help_runs(tmp_path):
    lines = EXAMPLE.splitlines()
    envgym = f"{shlex.quote(sys.executable)} -m envgym "
    script = "\n".join(["set -e", *(line.strip().replace("envgym ", envgym, 1) for line in lines)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["total"] for line in done.stdout.splitlines()] == [1.0, 0.5]
