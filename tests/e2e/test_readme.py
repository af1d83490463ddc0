"""Every block of the README runs as it stands; what would take minutes runs with smaller numbers, and nothing else changed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from envgym.spec.reward import PartSpec, check_gates
from envgym_trainer.config import TrainConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL
)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(README)]
SMALL = [
    "train.model=tiny",
    "train.warmup.demos=4",
    "train.steps=1",
    "train.tasks_per_step=1",
    "train.group_size=2",
]
SMALL += [
    "train.eval.tasks=2",
    "train.eval.val_tasks=2",
    "train.max_new_tokens=8",
    "train.max_context=2048",
    "train.preflight=off",
]
ELSEWHERE = ("cd ", "make ", "pip ", "vllm ", "VLLM_", "tensorboard ", "pytest")
"""Commands of the README that other tests run (test_install.py), or that need what is not here (a GPU, a browser)."""
LONG = {
    "benchmarks/learning_curve.py": "needs finished runs; its own test makes some",
    "benchmarks/sandbox.py": "needs an engine; its own test runs it",
    "train.server.url": "needs a server; tests/trainer/test_served.py has one",
}


def blocks(kind):
    return [block["text"] for block in BLOCKS if block["kind"] == kind and not block["file"]]


def commands():
    lines = [
        line.split("  #")[0].strip()
        for text in blocks("bash")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


RUN_HERE = [
    line
    for line in commands()
    if not line.startswith(ELSEWHERE) and not any(name in line for name in LONG)
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The checkout's environments beside the files that the README adds."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "envs").symlink_to(ROOT / "envs")
    for block in BLOCKS:
        if block["file"]:
            path = folder / block["file"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])
    return folder


def shell(line, folder):
    words = shlex.split(line)
    if words[:2] == ["envgym", "bench"]:
        words += [*SMALL, "--steps", "1"]
    if words[:2] == ["envgym", "train"]:
        words += [*SMALL, "--out", str(folder / "runs")]
    if words[:2] == ["envgym", "study"]:
        words += [*SMALL, "--seeds", "1", "--out", str(folder / "study")]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def test_the_readme_has_its_parts():
    assert len(RUN_HERE) >= 8
    assert len([block for block in BLOCKS if block["file"]]) >= 6
    assert "@@" not in README


@pytest.mark.parametrize("line", RUN_HERE)
def test_a_command_of_the_readme_runs(line, desk):
    if "--policy adapter:" in line:
        pytest.skip("needs the adapter of a finished run; tests/trainer/test_train.py loads one")
    done = shell(line, desk)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text", blocks("python"))
def test_a_session_of_the_readme_runs(text, desk):
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readmes_rules_of_a_reward_are_rules():
    text = next(text for text in blocks("yaml") if text.startswith("reward:"))
    rules = {
        name: PartSpec.model_validate(rule) for name, rule in yaml.safe_load(text)["reward"].items()
    }
    check_gates(rules)
    assert {"polite", "on_way"} <= rules.keys()


@pytest.mark.parametrize("text", [text for text in blocks("yaml") if text.startswith("train:")])
def test_the_readmes_settings_of_training_are_settings(text):
    TrainConfig.model_validate(yaml.safe_load(text)["train"]).checked()


def test_the_desk_of_the_readme_trains(desk):
    done = shell("envgym train desk.yaml", desk)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warm start" in done.stdout
    assert "vllm serve" in done.stdout


def test_the_tree_of_the_readme_is_there():
    tree = next(block["text"] for block in BLOCKS if block["text"].startswith("envs/"))
    folder = ROOT
    for line in tree.splitlines():
        indented = line.startswith("  ")
        for name in re.split(r"\s{2,}", line.strip())[0].split():
            base = folder if indented else ROOT
            assert (base / name).exists(), name
            if not indented and name.endswith("/"):
                folder = ROOT / name
