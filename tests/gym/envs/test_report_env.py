"""Reward parts of the environment `report`."""

from dataclasses import replace

import pytest

from envgym.errors import SpecError, UsageError, WorldFailure
from envgym.rewards.evidence import Evidence
from envgym.rewards.parts.artefacts import (
    artefacts_match,
    image_match,
    json_match,
    sentence_match,
    table_match,
)
from envgym.rewards.rubric import Rubric
from envgym.rewards.state_diff import RowDiff, compare_changes
from envgym.tasks import Change, Task
from tests.fakes.drawings import bars, svg

pytest.importorskip("resvg_py", reason="needs the extra 'images'")


def evidence(final="", files=(), changes=(), **truth):
    """Return the evidence of an episode with these files (path -> text) and this final text."""
    rows = [
        RowDiff("insert", "files", path, {}, {"path": path, "kind": "file", "text": text})
        for path, text in dict(files).items()
    ]
    task = Task(
        "train/t/0",
        "prompt",
        0,
        "train",
        "t",
        changes=tuple(Change.insert("files", path=path) for path in changes),
        extra=truth,
    )
    return Evidence(task, (), tuple(rows), compare_changes(task.changes, rows), final, 1, {})


def test_an_artefact_is_a_file_or_the_final_message():
    assert image_match(evidence(files={"chart.svg": bars()}, chart=bars()), file="chart.svg") == 1.0
    assert image_match(evidence(bars(), chart=bars())) == 1.0
    assert (
        image_match(evidence(bars(), chart=bars()), file="chart.svg") == 0.0
    )  # in the answer, but not in the file
    assert image_match(evidence(files={"other.svg": bars()}, chart=bars()), file="chart.svg") == 0.0
    assert (
        json_match(evidence('Here it is:\n```json\n{"a": 1}\n```\nDone.', summary={"a": 1})) == 1.0
    )
    assert (
        json_match(evidence('```\n{"a": 1}\n```\n```\n{"a": 2}\n```', summary={"a": 1})) == 0.0
    )  # two guesses score nothing


def test_a_file_that_was_deleted_or_only_moved_elsewhere_is_no_artefact():
    gone = RowDiff("delete", "files", "chart.svg", {"path": "chart.svg", "text": bars()}, {})
    assert (
        image_match(replace(evidence(chart=bars()), changed_rows=(gone,)), file="chart.svg") == 0.0
    )


@pytest.mark.parametrize("part", [image_match, json_match, table_match, sentence_match])
def test_a_part_without_its_truth_does_not_apply(part):
    assert part(evidence(bars())) is None


def test_each_part_scores_in_its_own_way():
    assert 0.5 < image_match(evidence(bars(values=[12, 7, 8, 3]), chart=bars())) < 1.0
    assert json_match(evidence('{"a": 1, "b": 2}', summary={"a": 1, "b": 3})) == 0.5
    assert (
        json_match(
            evidence('{"a": 1, "b": 2}', summary={"a": 1, "b": 3}),
            schema={"maxProperties": 1},
            truth="none",
        )
        is None
    )
    assert table_match(evidence("a\n2\n1", table=[{"a": 1}, {"a": 2}])) == pytest.approx(1 / 3)
    assert table_match(evidence("a\n2\n1", table=[{"a": 1}, {"a": 2}]), ordered=False) == 1.0


SENTENCE = {"says": ["Figs", 3], "never": ["Pears"]}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Figs, with 3.", 1.0),
        ("It is the figs: 3 of them", 1.0),
        ("Figs.", 0.5),
        ("Figs, with 33.", 0.5),
        ("Figs or Pears, with 3.", 0.0),
        ("Figs, with 3. " + "x " * 50, 0.0),
        ("", 0.0),
    ],
)
def test_a_sentence_says_its_facts_and_none_that_is_wrong(text, score):
    assert sentence_match(evidence(text, sentence=SENTENCE)) == score


def test_artefacts_match_wants_every_bar_and_nothing_unasked():
    options = {"image_match": {"file": "chart.svg", "bar": 0.9}, "json_match": {}}
    good = evidence(
        '{"a": 1}', {"chart.svg": bars()}, ["chart.svg"], chart=bars(), summary={"a": 1}
    )
    assert artefacts_match(good, **options) == 1.0
    assert artefacts_match(replace(good, final_message='{"a": 2}'), **options) == 0.0
    near = evidence(
        '{"a": 1}',
        {"chart.svg": bars(title="Fruit sole")},
        ["chart.svg"],
        chart=bars(),
        summary={"a": 1},
    )
    assert artefacts_match(near, **options) == 1.0
    assert (
        artefacts_match(near, **options | {"image_match": {"file": "chart.svg"}}) == 0.0
    )  # the threshold is 1 by default
    extra = evidence(
        '{"a": 1}', {"chart.svg": bars(), "b": ""}, ["chart.svg"], chart=bars(), summary={"a": 1}
    )
    assert artefacts_match(extra, **options) == 0.0


def test_a_task_without_any_truth_is_never_right():
    assert artefacts_match(evidence(), image_match={}, json_match={}) == 0.0


def test_an_unknown_part_gets_a_suggestion():
    with pytest.raises(UsageError, match="no part 'imagematch', did you mean 'image_match'"):
        artefacts_match(evidence(), imagematch={})


@pytest.mark.parametrize(
    ("part", "truth"),
    [
        (image_match, {"chart": 3}),
        (image_match, {"chart": "no svg"}),
        (json_match, {"summary": float("nan")}),
        (table_match, {"table": "a\n1"}),
        (table_match, {"table": []}),
        (sentence_match, {"sentence": "Figs"}),
        (sentence_match, {"sentence": {"says": []}}),
        (sentence_match, {"sentence": {"says": ["a"], "nevr": ["b"]}}),
    ],
)
def test_a_truth_that_makes_no_sense_voids_the_episode_instead_of_scoring_it(part, truth):
    with pytest.raises(UsageError):
        part(evidence("x", **truth))
    with pytest.raises(WorldFailure, match="reward_raised in score: part 'solved': UsageError"):
        Rubric.of({"solved": (part, 1.0)}, "solved").score(evidence("x", **truth))


def darkness(picture, truth):
    """A custom similarity measure: the difference of mean grey values."""
    one, other = (image.convert("L").resize((1, 1)).getpixel((0, 0)) for image in (picture, truth))
    return 1 - abs(one - other) / 255


def test_another_measure_is_named_as_module_and_function():
    half = svg('<rect width="200" height="300"/>')
    measured = image_match(
        evidence(half, chart=svg("")), similarity="tests.gym.envs.test_report_env:darkness"
    )
    assert measured == pytest.approx(0.5, abs=0.02)
    with pytest.raises(
        SpecError, match=r"no \'darknes\' in tests\.gym\.envs\.test_report_env, did you mean"
    ):
        image_match(evidence(half, chart=half), similarity="tests.gym.envs.test_report_env:darknes")
