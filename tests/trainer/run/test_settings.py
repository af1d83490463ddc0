"""Differences between the settings of a run and others, and settings changed by a resume."""

import pytest
import yaml

from envgym.spec.environment import load_spec
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.settings import differences, inline

RUN = {
    "id": "a",
    "reward": {"solved": {"from": "state_match", "weight": 1.0}},
    "train": {"seed": 7, "steps": 2, "optimizer": {"learning_rate": 1e-6}, "engine": None},
}


def changed(path, value):
    """Return the settings of the run with one value changed."""
    made = yaml.safe_load(yaml.safe_dump(RUN))
    *parents, last = path
    inner = made
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return made


def test_equal_settings_do_not_differ():
    assert differences(RUN, yaml.safe_load(yaml.safe_dump(RUN))) == []
    assert differences({"a": 1}, {"a": 1.0}) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("train", "seed"), 0, "train.seed: run has 7, command line has 0"),
        (
            ("train", "optimizer", "learning_rate"),
            1e-3,
            "train.optimizer.learning_rate: run has 1.0e-06, command line has 0.001",
        ),
        (
            ("reward", "solved", "from"),
            "valid_calls",
            "reward.solved.from: run has state_match, command line has valid_calls",
        ),
        (
            ("train", "engine"),
            {"name": "x"},
            "train.engine: run has null, command line has {name: x}",
        ),
        (
            ("reward",),
            {"other": {"from": "x"}},
            "reward: run has {solved: {from: state_match, weight: 1.0}}, "
            "command line has {other: {from: x}}",
        ),
        (("train", "seed"), True, "train.seed: run has 7, command line has true"),
        (("train", "seed"), "7", "train.seed: run has 7, command line has '7'"),
    ],
)
def test_a_difference_names_key_and_both_values(path, value, told):
    (found,) = differences(RUN, changed(path, value))
    assert found.describe() == told
    assert not found.is_free


@pytest.mark.parametrize(
    ("path", "free"),
    [
        (("train", "steps"), True),
        (("train", "seed"), False),
        (("id",), False),
    ],
)
def test_only_settings_that_change_no_step_are_free(path, free):
    (found,) = differences(RUN, changed(path, 9))
    assert found.is_free is free


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": [None, 1e-9]}},
        {},
        1e-6,
        1e30,
        0.1,
        -3,
        True,
        None,
        "",
        "no",
        "1e-6",
        "a: b",
        "line\nline",
        "ü\x1b",
        [1, "a"],
    ],
)
def test_a_value_in_a_setting_comes_back_as_it_went_in(value):
    text = inline(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
    assert type(yaml.safe_load(text)) is type(value)


def test_changes_are_in_force_after_their_step_in_order(tmp_path):
    run = RunFolder.create(tmp_path, "r")
    assert run.changes() == []
    run.add_change(2, ["train.seed=1"], time="t")
    run.add_change(5, ["train.seed=2", "train.steps=9"], time="t")
    assert run.changes(step=2) == []
    assert run.changes(step=3) == ["train.seed=1"]
    assert run.changes(step=6) == run.changes() == ["train.seed=1", "train.seed=2", "train.steps=9"]


def test_the_settings_of_a_run_replace_those_of_the_file(tmp_path):
    settings = tmp_path / "config.yaml"
    settings.write_text(
        yaml.safe_dump(
            load_spec("guess", ["episode.max_turns=3"]).model_dump(mode="json", by_alias=True)
        )
    )
    spec = load_spec("guess", ["train.seed=4"], settings=settings)
    assert spec.episode.max_turns == 3
    assert spec.train["seed"] == 4
    assert spec.path == load_spec("guess").path
