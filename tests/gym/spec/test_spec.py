"""Validation of a YAML reports every error at once, with its line and the fix."""

import json

import pytest

from envgym.errors import SpecError
from envgym.spec.catalog import bundled_envs
from envgym.spec.environment import json_schema, load_spec
from envgym.spec.old_keys import NEW_VALUES, RENAMED

GOOD = """\
id: acme/shop-v0
tools: [tools.py]
state: {schema: schema.sql}
tasks: {from: tasks.py}
episode:
  max_turns: 4
"""


def write(folder, text=GOOD):
    for file in ("tools.py", "tasks.py", "schema.sql"):
        (folder / file).touch()
    path = folder / "shop.yaml"
    path.write_text(text)
    return path


def mistakes(folder, text, overrides=()):
    with pytest.raises(SpecError) as caught:
        load_spec(write(folder, text), overrides)
    return str(caught.value).splitlines()


def test_a_good_yaml_has_its_values_and_the_defaults(tmp_path):
    spec = load_spec(write(tmp_path))
    assert (spec.id, spec.episode.max_turns, spec.sandbox.backend) == ("acme/shop-v0", 4, "auto")
    assert spec.root == tmp_path


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_one(tmp_path):
    assert mistakes(tmp_path, GOOD.replace("max_turns", "max_turn")) == [
        f"{tmp_path}/shop.yaml:6: episode.max_turn: unknown key, did you mean 'max_turns'?"
    ]


@pytest.mark.parametrize(("block", "old", "new"), [(*at, new) for at, new in RENAMED.items()])
def test_an_old_key_is_answered_with_the_new_one(tmp_path, block, old, new):
    (said,) = mistakes(tmp_path, GOOD, [f"{block}.{old}=1"])
    values = f" ({NEW_VALUES[block, old]})" if (block, old) in NEW_VALUES else ""
    assert said == f"override '{block}.{old}=1': {block}.{old}: is now {block}.{new}{values}"
    model = type(getattr(load_spec("guess"), block))
    assert new in model.model_fields
    assert old not in model.model_fields


def test_several_mistakes_are_told_at_once(tmp_path):
    text = (
        GOOD.replace("max_turns: 4", "max_turns: 0")
        + "sandbox: {backend: dcoker}\ntrain: {stepz: 3}\n"
    )
    told = mistakes(tmp_path, text)
    assert [line.split(": ")[1] for line in told] == [
        "sandbox.backend",
        "episode.max_turns",
        "train.stepz",
    ]
    assert "did you mean 'docker'?" in told[0]
    assert f"{tmp_path}/shop.yaml:8: train.stepz: unknown key, did you mean 'steps'?" in told[2]


def test_a_value_out_of_bounds_is_told_with_the_bound(tmp_path):
    (told,) = mistakes(tmp_path, GOOD.replace("max_turns: 4", "max_turns: 0"))
    assert told.endswith("episode.max_turns: input should be greater than or equal to 1, got 0")


def test_a_missing_file_is_told_before_anything_runs(tmp_path):
    (told,) = mistakes(tmp_path, GOOD.replace("[tools.py]", "[tolls.py]"))
    assert told == f"{tmp_path}/shop.yaml:2: tools: no such file: {tmp_path}/tolls.py"


def test_a_key_given_twice_is_refused(tmp_path):
    (told,) = mistakes(tmp_path, GOOD + "  max_turns: 5\n")
    assert "shop.yaml:7: episode.max_turns: given twice" in told


def test_broken_yaml_is_told_with_its_line(tmp_path):
    (told,) = mistakes(tmp_path, "id: [1\ntools: 3")
    assert "shop.yaml:2: not valid YAML" in told


def test_overrides_go_over_the_file_and_are_named_in_mistakes(tmp_path):
    assert (
        load_spec(
            write(tmp_path), ["episode.max_turns=7", "prompt.rendering=native"]
        ).episode.max_turns
        == 7
    )
    assert mistakes(tmp_path, GOOD, ["episode.max_turn=7"])[0].startswith(
        "override 'episode.max_turn=7': episode.max_turn: unknown key"
    )
    assert "must look like key.sub=value" in mistakes(tmp_path, GOOD, ["episode.max_turns"])[0]


def test_a_profile_goes_over_the_block_and_under_the_overrides(tmp_path):
    path = write(
        tmp_path,
        GOOD + "train:\n  steps: 1\n  rollout: {group_size: 2}\n"
        "  profiles:\n    cpu: {steps: 5, rollout: {group_size: 4}}\n",
    )
    train = load_spec(path, ["train.steps=9"], profile="cpu").train
    assert (train["steps"], train["rollout"]["group_size"]) == (9, 4)
    assert load_spec(path).train["steps"] == 1


def test_a_mistake_in_a_profile_is_told(tmp_path):
    (told,) = mistakes(tmp_path, GOOD + "train:\n  profiles:\n    cpu: {stepz: 5}\n")
    assert "profiles.cpu.stepz" in told


def test_tools_and_tasks_are_required_unless_the_world_is_foreign(tmp_path):
    (told,) = mistakes(tmp_path, "id: a/b-v0\ntasks: {from: tasks.py}\n")
    assert "tools: at least one file" in told
    assert "answered in words write `tools: []`" in told
    text = "id: a/b-v0\ntasks: {from: tasks.py}\ntools: []\n"
    assert load_spec(write(tmp_path, text)).tools == ()
    assert (
        load_spec(write(tmp_path, "id: a/b-v0\ngym: some_package:Thing-v0\n")).gym
        == "some_package:Thing-v0"
    )


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(SpecError, match="did you mean 'guess'"):
        load_spec("gues")


def test_the_schema_covers_the_trainers_block_and_describes_its_fields():
    schema = json_schema()
    assert json.dumps(schema)
    rollout = schema["$defs"]["RolloutConfig"]["properties"]
    assert rollout["group_size"]["description"].startswith("Number of episodes of a group")
    assert "Gymnasium id" in schema["properties"]["id"]["description"]


@pytest.mark.parametrize("name", bundled_envs())
def test_every_shipped_environment_loads(name):
    assert load_spec(name).id.startswith("envgym/")


def test_adding_a_reward_part_keeps_solved(tmp_path):
    spec = load_spec(write(tmp_path), ["reward.turns={from: turns, weight: 0.0}"])
    assert {name: part.weight for name, part in spec.reward.items()} == {
        "solved": 1.0,
        "turns": 0.0,
    }
    assert (
        "success: is 'done', which is not a part" in mistakes(tmp_path, GOOD, ["success=done"])[0]
    )
