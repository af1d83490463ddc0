"""Episodes of the environment `report`."""

import json
import re
from collections import defaultdict

import pytest

from envgym import ToolCall
from envgym.dialects import render_call
from envgym.env import ToolWorld
from envgym.playing import Request, play, play_many
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.random import RandomPolicy
from envgym.policies.refuse import RefusePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from envgym.tasks import SPLITS

pytest.importorskip("resvg_py", reason="needs the extra 'images'")


@pytest.fixture(scope="module")
def world():
    world = ToolWorld(load_spec("report", ["sandbox.backend=none"]))
    yield world
    world.close()


def test_the_oracle_solves_every_kind_of_task_and_the_others_none(world):
    for split in SPLITS:
        requests = [Request(task, 0) for task in world.tasks.ids(split, count=20)]
        episodes = play_many(world.env, OraclePolicy("pythonic"), requests, workers=2)
        assert all(episode.success for episode in episodes)
        assert {
            value
            for episode in episodes
            for name, value in episode.reward_parts.items()
            if name != "extra_writes"
        } <= {
            1.0,
            None,
        }
        for policy in (NoopPolicy(), RefusePolicy(dialect="pythonic")):
            assert {
                episode.reward for episode in play_many(world.env, policy, requests, workers=2)
            } == {0.0}
        random = play_many(
            world.env,
            RandomPolicy(list(world.tools.values()), dialect="pythonic"),
            requests,
            workers=2,
        )
        assert not any(episode.success for episode in random)
        assert sum(episode.reward for episode in random) / len(random) < 0.05


def test_levels_ask_for_one_two_and_three_artefacts_and_each_holds_a_template_out(world):
    held = defaultdict(list)
    for template in world.tasks.templates.values():
        task = world.tasks.task(f"test/{template.name}/0")
        assert len(task.extra) == {"L0": 1, "L1": 2, "L2": 3}[template.level]
        held[template.level].append(template.splits)
    assert set(held) == {"L0", "L1", "L2"}
    assert all(("test",) in splits for splits in held.values())


def test_splits_share_neither_goods_nor_wording(world):
    words = defaultdict(set)
    names = defaultdict(set)
    goods = {
        word.casefold()
        for word in re.findall(r'"(\w+)"', (world.spec.root / "report/names.py").read_text())
    }
    for split in SPLITS:
        for task_id in world.tasks.ids(split, count=60):
            prompt = world.tasks.task(task_id).prompt
            spoken = {word.casefold() for word in re.findall(r"\w+", prompt)} & goods
            names[split] |= spoken - set(SPLITS) - {"sold", "stock", "returned", "ordered"}
            words[split] |= {
                re.sub(
                    "|".join(sorted(spoken)) or "$^", "_", re.sub(r"\d+", "_", prompt.casefold())
                )
            }
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not names[one] & names[other]
        assert not words[one] & words[other]
    assert len(names["train"]) > 20


def played(world, task_id, *says):
    return play(world.env(), ScriptedPolicy(list(says)), seed=0, task=task_id)


def call(tool, **arguments):
    return render_call(ToolCall(tool, arguments), "pythonic")


def test_another_way_to_the_same_look_earns_everything(world):
    task = world.tasks.task("train/bars_report/0")
    read, draw, write = task.oracle
    picture = (
        task.extra["chart"]
        .replace('" fill="#33658a"', '" style="fill: rgb(51,101,138)"')
        .replace("</svg>", "<title>x</title></svg>")
    )
    assert picture != task.extra["chart"]
    summary = json.dumps(dict(reversed(task.extra["summary"].items())), indent=4)
    item, number = task.extra["sentence"]["says"]
    episode = played(
        world,
        task.id,
        call("write_file", path="summary.json", text="a try"),
        call("write_file", path="summary.json", text=summary),
        call("write_file", path="chart.svg", text=picture),
        f"That is {number}, for the {item.lower()}!",
    )
    assert episode.success
    assert episode.reward == pytest.approx(1.0 + 3 * 0.5)


def wrong_charts(arguments):
    labels = arguments["labels"]
    values = arguments["values"]
    yield arguments | {"values": [values[0] + 1, *values[1:]]}
    yield arguments | {"labels": [labels[0][:-1], *labels[1:]]}
    yield arguments | {"labels": labels[::-1]}
    yield arguments | {"labels": labels[:-1], "values": values[:-1]}
    yield arguments | {"title": arguments["title"].lower()}


def test_a_chart_that_is_wrong_in_one_thing_is_paid_in_part_and_does_not_solve(world):
    for task_id in ("train/bars_of_list/0", "test/line_of_list/0", "val/bars_of_list/3"):
        right = world.tasks.task(task_id).oracle[0]
        for arguments in wrong_charts(right.arguments):
            episode = played(world, task_id, call(right.name, **arguments))
            assert not episode.success
            assert 0.0 < episode.reward_parts["chart"] < 1.0
            assert episode.reward == pytest.approx(0.5 * episode.reward_parts["chart"])


def test_the_wrong_kind_of_chart_earns_little(world):
    arguments = world.tasks.task("train/bars_of_list/0").oracle[0].arguments
    episode = played(world, "train/bars_of_list/0", call("draw_line_chart", **arguments))
    assert episode.reward_parts["chart"] < 0.5


def test_each_artefact_counts_for_itself(world):
    task = world.tasks.task("train/bars_report/0")
    episode = played(world, task.id, render_call(task.oracle[1], "pythonic"), "I do not know.")
    assert (
        episode.reward_parts["chart"],
        episode.reward_parts["summary"],
        episode.reward_parts["sentence"],
    ) == (1.0, 0.0, 0.0)
    assert (episode.reward, episode.success) == (0.5, False)


def test_telling_every_number_is_no_answer(world):
    task = world.tasks.task("train/sentence_of_list/0")
    item, number = task.extra["sentence"]["says"]
    assert played(world, task.id, f"{item}: {number}.").success
    assert played(world, task.id, task.prompt.partition(":")[2][:100]).reward == 0.0
    numbers = " ".join(re.findall(r"\d+", task.prompt))
    assert played(world, task.id, f"{item}: {numbers}.").reward == 0.0


def test_a_file_too_many_does_not_solve(world):
    task = world.tasks.task("train/summary_of_list/0")
    episode = played(
        world,
        task.id,
        render_call(task.oracle[0], "pythonic"),
        call("write_file", path="more.txt", text="x"),
    )
    assert (episode.reward_parts["summary"], episode.success) == (1.0, False)


def test_the_schema_of_the_yaml_holds(world):
    task = world.tasks.task("train/summary_of_list/0")
    text = json.dumps(task.extra["summary"] | {"guess": 1})
    assert (
        played(world, task.id, call("write_file", path="summary.json", text=text)).reward_parts[
            "summary"
        ]
        == 0.0
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": "../chart.svg"}, "give a plain file name"),
        ({"path": "/tmp/chart.svg"}, "give a plain file name"),
        ({"path": ".."}, "give a plain file name"),
        ({"labels": ["a"]}, "1 labels and 3 values"),
        ({"labels": [], "values": []}, "0 labels and 0 values"),
        ({"values": [1, 2, -3]}, "values are from 0"),
        ({"title": "x" * 61}, "at most 60 characters"),
        ({"title": "a\x01"}, "all printable"),
    ],
)
def test_tools_refuse_what_they_cannot_draw(world, arguments, told):
    good = {"path": "chart.svg", "title": "t", "labels": ["a", "b", "c"], "values": [1, 2, 3]}
    episode = played(world, "train/bars_of_list/0", call("draw_bar_chart", **good | arguments))
    assert told in episode.messages[3].content
    assert episode.tool_errors == 1


def test_no_chart_of_the_tools_is_refused_by_the_grader(world):
    labels = [
        "<script>",
        "&amp;",
        '"',
        "é漢",
        "\U0001f34e",
        "a" * 60,
        "",
        "]]>",
        "0",
        "-",
        "~",
        "x",
    ]
    episode = played(
        world,
        "train/bars_of_list/0",
        call("draw_bar_chart", path="chart.svg", title="<b>", labels=labels, values=[0] * 12),
    )
    assert episode.tool_errors == 0
    assert 0.0 < episode.reward_parts["chart"] < 1.0
