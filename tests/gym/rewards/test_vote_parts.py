"""Metrics and reward parts of majority votes."""

import pytest

from envgym.episode import Episode, Failure
from envgym.errors import SpecError, UsageError
from envgym.messages import Message
from envgym.rewards.evidence import Evidence
from envgym.rewards.parts.votes import boxed_right, majority_vote
from envgym.rewards.rubric import shipped_parts
from envgym.rewards.scoring.answer_normalization import (
    extract_boxed,
)
from envgym.rewards.scoring.majority_vote import (
    VotedGroup,
    label_rewards,
    vote,
    vote_metrics,
    vote_rewards,
)
from envgym.rewards.state_diff import compare_changes
from envgym.tasks import Task


def box(*answers):
    return [f"So it is \\boxed{{{answer}}}." for answer in answers]


# --- metrics ---


def voted(answers, truth=None, **options):
    texts = box(*answers)
    return VotedGroup(
        texts,
        vote([extract_boxed(text) for text in texts], **options),
        vote_rewards(texts, **options),
        truth,
    )


def test_one_constant_answer_earns_everything_and_is_right_on_a_third_of_the_tasks():
    metrics = vote_metrics([voted(["1"] * 4, truth) for truth in ("1", "2", "3")])
    assert (metrics["majority_voting_reward"], metrics["majority_ratio"]) == (1.0, 1.0)
    assert (
        metrics["ground_truth_ratio"]
        == metrics["label_accuracy"]
        == metrics["pass@n"]
        == pytest.approx(1 / 3)
    )


def test_the_rates_of_a_step_by_hand():
    metrics = vote_metrics(
        [
            voted(["1", "1", "2", "3"], "2"),
            voted(["4", "4", "4", "4"], "4"),
            voted(["5", "6", "7", "8"], "9"),
        ]
    )
    assert metrics["majority_ratio"] == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)
    assert metrics["majority_voting_reward"] == pytest.approx((2 + 4 + 1) / 12)
    assert metrics["ground_truth_ratio"] == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert metrics["pass@n"] == pytest.approx(2 / 3)
    assert metrics["label_accuracy"] == metrics["labelled_right"] == pytest.approx(1 / 3)
    assert metrics["reward_accuracy"] == pytest.approx(
        (1 / 4 + 1 + 3 / 4) / 3
    )  # 3 of the first rollouts are wrong: both 1s and the 2
    assert (metrics["parsed"], metrics["labelled"]) == (1.0, 1.0)
    bands = {name: share for name, share in metrics.items() if name.startswith("pass_rate/")}
    assert bands == pytest.approx(
        {
            f"pass_rate/{band}": share
            for band, share in [
                ("0", 1 / 3),
                ("1-25", 1 / 3),
                ("26-50", 0),
                ("51-75", 0),
                ("76-99", 0),
                ("100", 1 / 3),
            ]
        }
    )


def test_a_masked_group_counts_as_not_labelled_and_for_no_accuracy_of_labels():
    metrics = vote_metrics(
        [
            voted(["1", "1", "2", "3"], "1", threshold=0.6),
            voted(["1", "1", "1", "2"], "1", threshold=0.6),
        ]
    )
    assert (metrics["labelled"], metrics["labelled_right"], metrics["label_accuracy"]) == (
        0.5,
        0.5,
        1.0,
    )
    assert metrics["majority_voting_reward"] == 0.75


def test_what_cannot_be_told_is_left_out_and_not_0():
    assert set(vote_metrics([voted(["1", "2"])])) == {
        "parsed",
        "majority_ratio",
        "labelled",
        "majority_voting_reward",
    }
    masked = vote_metrics([voted(["1", "2"], "1", threshold=1.0)])
    assert not {"label_accuracy", "reward_accuracy", "majority_voting_reward"} & set(masked)


# --- reward parts ---


def evidence(said, **extra):
    task = Task("train/t/0", "prompt", 0, "train", "t", extra=extra)
    return Evidence(task, (), (), compare_changes((), ()), said, 1, {}, assistant_messages=(said,))


def episode(*said, void=False):
    messages = (Message("user", "?"), *(Message("assistant", text) for text in said))
    failure = Failure("timeout", "call", "gone") if void else None
    return Episode(
        "e",
        "train/t/0",
        "train",
        "",
        "t",
        0,
        messages,
        None,
        None if void else 0.0,
        failure=failure,
    )


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (r"<think>Is it \boxed{7}? Hardly.</think>I do not know.", 0.0),
        (r"<think>Is it \boxed{7}? Let me see", 0.0),
        (r"Is it \boxed{7}? No.</think>It is \boxed{8}.", 0.0),
        (r"<think>Perhaps \boxed{8}.</think>It is \boxed{7}.", 1.0),
        (r"Perhaps \boxed{8}.</think>It is \boxed{7}.", 1.0),
    ],
)
def test_a_box_in_the_reasoning_is_no_answer(text, reward):
    assert boxed_right(evidence(text, answer="7")) == reward
    assert boxed_right(evidence(text, answer="7"), lax=True) == reward


def test_the_truth_is_met_by_meaning():
    assert boxed_right(evidence(r"\boxed{0.5}", answer="1/2")) == 1.0
    assert boxed_right(evidence(r"\boxed{2}", answer="1/2")) == 0.0
    assert boxed_right(evidence("it is 1/2", answer="1/2")) == 0.0
    assert boxed_right(evidence("it is 1/2", answer="1/2"), lax=True) == 1.0
    assert (
        boxed_right(
            evidence(
                r"\boxed{Bob is a knave and Ann is a knight}",
                answer="Ann is a knight, and Bob is a knave.",
                reading="claims",
            )
        )
        == 1.0
    )


def test_without_a_truth_nothing_is_scored_and_a_malformed_one_is_told():
    assert boxed_right(evidence(r"\boxed{1}")) is None
    with pytest.raises(SpecError, match=r"train/t/0.*must be a string, got 5"):
        boxed_right(evidence(r"\boxed{5}", answer=5))
    with pytest.raises(UsageError, match="did you mean 'claims'"):
        boxed_right(evidence(r"\boxed{5}", answer="5", reading="claim"))


def test_a_group_votes_by_its_last_messages_and_void_episodes_do_not():
    task = Task("train/t/0", "prompt", 0, "train", "t")
    group = [
        episode(*box("2"), *box("1")),
        episode(*box("1.0")),
        episode(*box("2"), void=True),
        episode(*box("2")),
        episode(),
    ]
    assert majority_vote(task, group) == [1, 1, None, 0, 0]
    assert majority_vote(task, group, threshold=0.6) == [None] * 5  # two of four
    assert majority_vote(task, group, threshold=0.6, divide_by="parsable") == [1, 1, None, 0, 0]
    assert majority_vote(task, group, soft=True) == [0.5, 0.5, None, 0.25, 0]
    assert majority_vote(task, [episode(void=True)]) == [None]


def test_the_vote_is_known_as_a_part_of_a_group_that_no_fact_stands_behind():
    marks = lambda name: vars(shipped_parts()[name])
    assert marks("majority_vote") == {
        "of_group": True,
        "grounded": False,
        "minimum": None,
        "uses_judges": False,
    }
    assert marks("boxed_right") == {}


def test_a_true_label_is_met_or_not():
    assert label_rewards(box("1", "01", "2"), "1.0") == [1, 1, 0]
