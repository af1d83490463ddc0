"""A newcomer adds one thing of each kind from a folder, without touching the project.

Each file below is written into a temporary folder and named on the command line, as a user does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {
    "lamps.yaml": """
id: newcomer/lamps-v0
prompt: {system: "Dim lamps. Call a tool, then say Done."}
tools: [tools.py]
state: {schema: schema.sql, seed: world.py:build}
tasks: {from: tasks.py, val: 4, test: 40}
episode: {max_turns: 2}
""",
    "schema.sql": "CREATE TABLE lamps (id TEXT PRIMARY KEY, level INTEGER NOT NULL);",
    "world.py": """
def build(db, seed: int) -> None:
    for n in range(20):
        db.execute("INSERT INTO lamps VALUES (?, 0)", (f"L{(seed + 37 * n) % 1000}",))
""",
    "tools.py": '''
def dim(db, lamp: str, level: int) -> str:
    """Dim a lamp to a level in per cent."""
    if not db.execute("UPDATE lamps SET level = ? WHERE id = ?", (level, lamp)).rowcount:
        raise LookupError(f"no lamp {lamp}")
    return "ok"
''',
    "tasks.py": """
from envgym import Change, Draw, Task, ToolCall, template


@template(level="L0")
def dim(draw: Draw) -> Task:
    lamp, level = draw.row("SELECT id FROM lamps")["id"], draw.rng.randrange(10, 90)
    wordings = [f"Dim {lamp} to {level}.", f"{lamp}: {level}.", f"Set {lamp} to {level}."]
    return draw.task(
        prompt=draw.wording(wordings),
        oracle=[ToolCall("dim", {"lamp": lamp, "level": level})],
        changes=[Change.update("lamps", lamp, level=level)],
    )
""",
}
REWARD = """
from envgym import Evidence


def short(evidence: Evidence) -> float:
    return 1.0 if len(evidence.final_message) < 10 else 0.0
"""
POLICY = """
import re

from envgym import Policy, ScriptedPolicy, World


def open_policy(argument: str, world: World) -> Policy:
    def answer(task, turn):
        lamp, level = re.search(r"(L[0-9]+)[^0-9]+([0-9]+)", task.prompt).groups()
        return "Done." if turn else f"dim(lamp='{lamp}', level={level})"

    return ScriptedPolicy(answer)
"""
BACKEND = '''
from pathlib import Path

from envgym import App, Sandbox
from envgym.sandbox.backends import local
from envgym.sandbox.options import SandboxOptions

LEVELS = local.LEVELS
WHY_NOT = local.WHY_NOT
probe = local.probe


def start(app: App, options: SandboxOptions) -> Sandbox:
    """Open a local sandbox and leave a note."""
    Path("opened.txt").write_text(options.level)
    return local.open(app, options)
'''
COMMAND = '''
"""Count the tasks of an environment."""


def add(parser):
    """Add the environment."""
    parser.add_argument("env")


def run(arguments):
    """Print the number of test tasks."""
    from envgym import load_spec, make_world

    world = make_world(load_spec(arguments.env))
    print(len(world.tasks.ids("test")), "tasks")
    world.close()
'''
DIALECT = '''
import json

from envgym import ToolCall


class Arrow:
    """One call a line: `-> dim {"lamp": "L1", "level": 50}`."""

    def read(self, text):
        if not text.startswith("-> "):
            return None
        name, _, arguments = text[3:].partition(" ")
        return [ToolCall(name, json.loads(arguments))], ""

    def write(self, call):
        return f"-> {call.name} {json.dumps(dict(call.arguments))}"

    def example(self):
        return "To call a tool, answer with: " + self.write(ToolCall("look_up", {"word": "tree"}))
'''

LOSS = '''
from envgym_trainer import LossInputs, TokenLosses, loss


@loss(uses_ratio=False)
def scaled(inputs: LossInputs, *, factor: float = 1.0) -> TokenLosses:
    """Return the loss of REINFORCE times a factor."""
    return TokenLosses(-factor * inputs.advantages * inputs.logprobs)
'''
ADVANTAGE = '''
import torch

from envgym_trainer import AdvantageInputs, advantage


@advantage(baseline="group", is_linear=False)
def alternating(inputs: AdvantageInputs) -> torch.Tensor:
    """Return 3 and -3 in turns, whatever the rewards are."""
    signs = 3.0 - 6.0 * (torch.arange(inputs.rewards.shape[1]) % 2)  # (G,)
    return signs.expand(inputs.rewards.shape).clone()
'''
ENGINE = '''
from pathlib import Path

from envgym_trainer import Engine, EngineInputs
from envgym_trainer.inference.in_process import open_engine as in_process


def noted(inputs: EngineInputs) -> Engine:
    """Open the engine of this process and leave a note."""
    Path("engine.txt").write_text(inputs.config.model.name)
    return in_process(inputs)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("newcomer")
    files = {
        "short.py": REWARD,
        "careful.py": POLICY,
        "noted.py": BACKEND,
        "count.py": COMMAND,
        "arrow.py": DIALECT,
        "scaled.py": LOSS,
        "alternating.py": ADVANTAGE,
        "engine.py": ENGINE,
        **ENVIRONMENT,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def envgym(folder: Path, *words: str, **variables: str) -> str:
    """Run one command in the folder and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "envgym", *words],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rate(folder: Path, policy: str, *settings: str) -> dict:
    """Return the result of `envgym eval` on the newcomer's environment."""
    words = ("eval", "lamps.yaml", "--policy", policy, "--tasks", "4", "--json", *settings)
    return json.loads(envgym(folder, *words, "--episodes", "episodes.jsonl"))


def last_episode(folder: Path) -> dict:
    return json.loads((folder / "episodes.jsonl").read_text().splitlines()[-1])


def test_an_environment(folder):
    assert "FAILED" not in envgym(folder, "check", "lamps.yaml", "--tasks", "20")


def test_a_reward(folder):
    rate(folder, "oracle", "reward.short={from: short.py:short, weight: 0.25}")
    assert last_episode(folder)["reward"] == 1.25
    assert last_episode(folder)["reward_parts"]["short"] == 1.0


def test_a_policy(folder):
    rate(folder, "careful.py:open_policy")
    assert last_episode(folder)["success"] is True


def test_a_backend(folder):
    rate(folder, "oracle", "sandbox.backend=noted.py:start", "sandbox.isolation=state")
    assert (folder / "opened.txt").read_text() == "state"
    assert last_episode(folder)["success"] is True


def test_a_dialect(folder):
    rate(folder, "oracle", "prompt.dialects=[arrow.py:Arrow]")
    assert last_episode(folder)["success"] is True
    assert '-> dim {"lamp"' in str(last_episode(folder)["messages"])


TRAINING = [
    "train.model=tiny",
    "train.steps=1",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=2",
    "train.rollout.max_turn_tokens=8",
    "train.evaluation.tasks=2",
    "train.evaluation.base_tasks=2",
    "train.output.adapter=none",
    "train.checks.preflight=off",
    "train.algorithm.advantage.name=alternating.py:alternating",
    "train.engine.name=engine.py:noted",
]


@pytest.fixture(scope="module")
def runs(folder) -> Path:
    """Two runs that differ in an option of the loss; the second has a loss of 0."""
    for name, factor in (("one", 1.0), ("zero", 0.0)):
        loss = f"train.algorithm.loss={{name: 'scaled.py:scaled', factor: {factor}}}"
        envgym(folder, "train", "lamps.yaml", *TRAINING, loss, "--out", "runs", "--name", name)
    return folder / "runs"


def steps(run: Path, file: str) -> list[dict]:
    lines = map(json.loads, (run / file).read_text().splitlines())
    return [line for line in lines if line["phase"] == "grpo"]


def test_a_loss_with_an_option(runs):
    (one,), (zero,) = (steps(runs / name, "metrics.jsonl") for name in ("one", "zero"))
    assert one["grad_norm"] > 0
    assert zero["grad_norm"] == 0


def test_an_advantage(runs):
    advantages = [line["advantage"] for line in steps(runs / "one", "episodes.jsonl")]
    assert sorted(advantages) == [-3, -3, 3, 3]


def test_an_engine(folder, runs):
    assert (folder / "engine.txt").read_text() == "tiny"


def test_a_command(folder):
    assert envgym(folder, "count", "lamps.yaml", ENVGYM_COMMANDS="count.py") == "40 tasks\n"
