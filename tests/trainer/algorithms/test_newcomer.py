"""A custom loss, advantage and preset: files beside the YAML that names them, and nothing else."""

import pytest

from envgym.commands import main
from envgym.errors import SpecError
from envgym.spec.catalog import find_env
from envgym.spec.environment import load_spec
from envgym_trainer.config import TrainConfig
from envgym_trainer.run.folder import RunFolder

LOSS = '''
from envgym_trainer.algorithms.losses import LossInputs, Positive, TokenLosses, loss


@loss(uses_ratio=True)
def soft_clip(inputs: LossInputs, *, width: Positive = 1.0) -> TokenLosses:
    """Return the policy-gradient loss with a smooth bound of the ratio.

    Args:
        width: Width of the bound. Nats. Above 0.
    """
    log_ratio = inputs.logprobs - inputs.old_logprobs
    bounded = width * (log_ratio / width).tanh()
    return TokenLosses(-bounded.exp() * inputs.advantages, ratio=bounded.exp())
'''
ADVANTAGE = '''
from torch import Tensor

from envgym_trainer.algorithms.advantages import AdvantageInputs, Fraction, advantage


@advantage(baseline="group", is_linear=False)
def quantile(inputs: AdvantageInputs, *, q: Fraction = 0.5) -> Tensor:
    """Return rewards minus a quantile of their group.

    Args:
        q: Quantile. 0 to 1.
    """
    rewards = inputs.rewards.masked_fill(~inputs.valid, float("nan"))
    centre = rewards.nanquantile(q, dim=1, keepdim=True)
    return (inputs.rewards - centre).masked_fill(~inputs.valid, 0.0)
'''
PRESET = """
loss: {name: my_loss.py:soft_clip, width: 0.5}
advantage: {name: my_advantage.py:quantile}
mask_truncated: true
"""
SMALL = [
    "train.checks.preflight=off",
    "train.model=tiny",
    "train.model.device=cpu",
    "train.steps=1",
    "train.warm_start.episodes=0",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=3",
    "train.rollout.max_turn_tokens=4",
    "train.evaluation.tasks=1",
    "train.evaluation.base_tasks=0",
    "episode.max_turns=2",
    "reward.words={from: 'rewards.py:words'}",
]


@pytest.fixture
def project(tmp_path):
    """Create a project folder with a copy of the guessing game and the custom files."""
    path = find_env("guess")
    text = path.read_text().replace("guess/", f"{path.parent}/guess/")
    (tmp_path / "game.yaml").write_text(text)
    (tmp_path / "rewards.py").write_text(
        "def words(evidence):\n    return 0.1 * (sum(map(ord, evidence.final_message)) % 7)\n"
    )
    (tmp_path / "my_loss.py").write_text(LOSS)
    (tmp_path / "my_advantage.py").write_text(ADVANTAGE)
    (tmp_path / "my_preset.yaml").write_text(PRESET)
    return tmp_path


def algorithm(project, *settings):
    return TrainConfig.of(load_spec(project / "game.yaml", settings).train).algorithm


def trained(project, capsys, *settings):
    """Run `envgym train` for one step. Return the step's metrics and its episodes."""
    out = project / "runs"
    assert main(["train", str(project / "game.yaml"), "--out", str(out), *SMALL, *settings]) == 0
    capsys.readouterr()
    folder = RunFolder.open(next(out.iterdir()))
    (step,) = [line for line in folder.metrics() if line["phase"] == "grpo"]
    return step, [episode for _, phase, episode in folder.episodes() if phase == "grpo"]


def test_a_step_with_a_loss_and_an_advantage_of_a_file(project, capsys):
    step, episodes = trained(
        project,
        capsys,
        "train.algorithm.loss.name=my_loss.py:soft_clip",
        "train.algorithm.loss.width=0.5",
        "train.algorithm.advantage.name=my_advantage.py:quantile",
    )
    assert step["grad_norm"] > 0
    assert step["policy_loss"] != 0
    by_task = {}
    for episode in episodes:
        by_task.setdefault(episode.task_id, []).append(episode)
    for group in by_task.values():
        median = sorted(episode.reward for episode in group)[1]
        for episode in group:
            assert episode.advantage == pytest.approx(episode.reward - median)
            assert sum(episode.advantage_parts.values()) == pytest.approx(episode.advantage)


def test_a_preset_of_a_file_names_files_beside_it(project, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    chosen = algorithm(project, "train.algorithm=my_preset.yaml", "train.algorithm.loss.width=0.25")
    assert chosen.loss.name == f"{project}/my_loss.py:soft_clip"
    assert chosen.loss.options == {"width": 0.25}
    assert chosen.advantage.options == {"q": 0.5}
    assert chosen.mask_truncated


def test_a_loss_of_a_package(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    chosen = algorithm(project, "train.algorithm.loss.name=my_loss:soft_clip")
    assert chosen.loss.options == {"width": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss.width=0"], r"loss.width: .*greater than 0"),
        (["loss.widht=1"], "has no option widht, did you mean 'width'"),
        (["loss.name=my_loss.py:softclip"], "no function 'softclip' in .*did you mean 'soft_clip'"),
        (["loss.name=my_los.py:soft_clip"], "no such file: .*my_los.py"),
        (["loss.name=my_advantage.py:quantile"], "'quantile' is no loss. Put @loss"),
        (["loss.name=no.such.module:f"], "there is no module 'no.such.module'"),
        (["preset=no_preset.yaml"], "preset '.*no_preset.yaml': No such file"),
        (["loss.name=broken.py:bad"], "broken.py:1: not valid Python"),
        (["loss.name=wrong.py:positional"], "keyword-only options after a star"),
        (["loss.name=wrong.py:untyped"], "option 'scale': needs a type"),
        (["loss.name=wrong.py:odd"], "type torch.Tensor is not known. Available: "),
    ],
)
def test_a_mistake_is_found_when_the_yaml_is_read(project, settings, message):
    (project / "broken.py").write_text("def bad(:\n")
    (project / "wrong.py").write_text(
        "@loss(uses_ratio=True)\ndef positional(inputs, scale): ...\n"
        "@loss(uses_ratio=True)\ndef untyped(inputs, *, scale=1.0): ...\n"
        "@loss(uses_ratio=True)\ndef odd(inputs, *, scale: torch.Tensor = 1.0): ...\n"
    )
    base = ["train.algorithm.loss.name=my_loss.py:soft_clip"]
    with pytest.raises(SpecError, match=message):
        algorithm(project, *base, *(f"train.algorithm.{setting}" for setting in settings))


def test_a_file_that_fails_on_import_is_reported_before_the_first_episode(project, capsys):
    (project / "my_loss.py").write_text(f"import no_such_package\n{LOSS}")
    settings = [*SMALL, "train.algorithm.loss.name=my_loss.py:soft_clip"]
    out = project / "runs"
    assert main(["train", str(project / "game.yaml"), "--out", str(out), *settings]) != 0
    assert "my_loss.py: fails on import: ModuleNotFoundError" in capsys.readouterr().err
    assert not list(out.glob("*/episodes.jsonl"))


def test_a_result_of_another_shape_is_refused_with_the_shape(project, capsys):
    (project / "my_advantage.py").write_text(
        ADVANTAGE.replace(".masked_fill(~inputs.valid, 0.0)\n", ".sum()\n")
    )
    settings = [*SMALL, "train.algorithm.advantage.name=my_advantage.py:quantile"]
    assert main(["train", str(project / "game.yaml"), "--out", str(project), *settings]) != 0
    assert "returned the shape ()" in capsys.readouterr().err
