"""A quiz of two levels with boxed answers, small enough for the tiny model to learn the format."""

from pathlib import Path

YAML = """\
id: test/quiz-v0
prompt: {system: "Answer in a box.", dialects: [hermes]}
tools: []
sandbox: {backend: none}
tasks: {from: quiz_tasks.py, val: 6, test: 6}
reward:
  solved: {from: boxed_right}
  agreed: {from: majority_vote}
episode: {max_turns: 1}
train:
  model: {name: tiny, device: cpu}
  steps: 2
  rollout:
    groups_per_step: 3
    group_size: 4
    max_turn_tokens: 12
    max_context_tokens: 128
    max_concurrent_episodes: 32
  warm_start: {episodes: 160, episodes_per_step: 8, learning_rate: 5.0e-3}
  plan: {name: self_training, pool_size: 12, true_label_fraction: 0.25}
  evaluation: {tasks: 4, base_tasks: 0, validation_tasks: 4, validate_every_steps: 1}
  checks: {preflight: "off"}
"""
TASKS = """\
from envgym import template


def ask(draw, words, right):
    asked = [f"{each} {words}?" for each in ("Which is", "Say", "Tell", "Name", "Give")]
    return draw.task(prompt=draw.wording(asked),
                     final=rf"\\boxed{{{right}}}", tools=(), answer=str(right))


@template(level="L0")
def same(draw):
    number = draw.rng.randint(1, 9)
    return ask(draw, number, number)


@template(level="L1")
def after(draw):
    number = draw.rng.randint(1, 9)
    return ask(draw, f"the one after {number}", number + 1)
"""


def write(folder: Path) -> Path:
    """Write the quiz and the files that it needs into the folder, and return its YAML."""
    (folder / "quiz_tasks.py").write_text(TASKS)
    (folder / "quiz.yaml").write_text(YAML)
    return folder / "quiz.yaml"
