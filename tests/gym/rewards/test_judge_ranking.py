"""A judge ranks the answers of a group."""

import json
import re

import pytest

from envgym.episode import Episode, Failure
from envgym.messages import Message
from envgym.rewards.parts.judge import judge, judge_group
from envgym.rewards.scoring.llm_judge import Judges, rank_group
from tests.gym.policies.test_openai import server, text_answer
from tests.gym.rewards.judge_requests import CURRENT, GOOD, TASK, ask, counted


@pytest.fixture(autouse=True)
def judges(monkeypatch):
    """Judges of one world, for each test anew."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    opened = Judges()
    monkeypatch.setattr(CURRENT, "judges", opened)
    yield opened
    opened.close()


def by_length(texts):
    return sorted(range(len(texts)), key=lambda index: len(texts[index]))


def test_ranks_are_even_steps_from_one_to_nothing():
    assert rank_group(["ccc", "a", "bb"], by_length) == [0.0, 1.0, 0.5]
    assert rank_group(["ccccc", "a", "bb", "ddd", "eeee"], by_length) == [0.0, 1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("seed", range(5))
def test_who_always_prefers_a_place_says_nothing(seed):
    first_is_best = lambda texts: list(range(len(texts)))
    assert rank_group(["a", "b", "c", "d"], first_is_best, seed=seed) == pytest.approx([0.5] * 4)


def test_the_order_of_showing_is_shuffled_by_the_seed_and_then_reversed():
    shown = []

    def note(texts):
        shown.append(texts)
        return by_length(texts)

    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    for seed in (1, 1, 2):
        rank_group(texts, note, seed=seed)
    assert shown[0] == shown[1][::-1] == shown[2]
    assert shown[0] != shown[4]
    assert sorted(shown[0]) == texts


def test_equal_texts_share_their_rank_and_are_shown_once():
    seen = []
    assert rank_group(
        ["bb", "a", "bb"], lambda texts: seen.append(len(texts)) or by_length(texts)
    ) == [0.0, 1.0, 0.0]
    assert seen == [2, 2]


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "a"]])
def test_where_nothing_can_be_compared_nothing_is_asked(texts):
    assert rank_group(texts, by_length) == [None] * len(texts)
    assert rank_group(texts, lambda shown: pytest.fail("asked")) == [None] * len(texts)


def test_one_missing_ranking_masks_the_whole_group():
    assert rank_group(["a", "b"], lambda texts: None) == [None, None]
    answers = [[0, 1], None]
    assert rank_group(["a", "b"], lambda texts: answers.pop(0)) == [None, None]


def episode(text, failure=None):
    messages = (Message("system", "s"), Message("user", "Say hello."), Message("assistant", text))
    return Episode(
        "e", TASK.id, "train", "", "t", 0, messages, None, None if failure else 0.0, failure=failure
    )


def rank(url, texts, **options):
    return judge_group(
        TASK,
        [episode(text) for text in texts],
        judges=CURRENT.judges,
        url=url,
        model="m",
        rubric="Short is good.",
        **options,
    )


def shortest_first(path, body):
    """Rank texts by length: a judge that reads its input."""
    texts = re.findall(
        r"^<TEXT \d+ \w{16}>\n(.*?)\n</TEXT",
        body["messages"][1]["content"],
        re.MULTILINE | re.DOTALL,
    )
    return text_answer(json.dumps(by_length(texts)))


def test_a_group_is_ranked_by_what_the_judge_says():
    with server(shortest_first) as (url, received):
        assert rank(url, ["Good day to you", "Hello", "Hi"]) == [0.0, 0.5, 1.0]
        assert rank(url, ["Hi", "Hello", "Good day to you"]) == [
            1.0,
            0.5,
            0.0,
        ]  # the same group: cached
    assert len(received) == 2
    assert counted() == {"requests": 2, "judgements": 2, "cached": 2}


def test_a_void_episode_has_no_rank_and_takes_none():
    episodes = [
        episode("Good day"),
        episode("x", Failure("sandbox_lost", "call", "gone")),
        episode("Hi"),
    ]
    with server(shortest_first) as (url, received):
        options = {"judges": CURRENT.judges, "url": url, "model": "m", "rubric": "Short is good."}
        assert judge_group(TASK, episodes, **options) == [0.0, None, 1.0]
    assert "x" not in re.findall(
        r"^<TEXT \d+ \w{16}>\n(.*)$", received[0][1]["messages"][1]["content"], re.MULTILINE
    )


@pytest.mark.parametrize(
    "text",
    [
        "[0, 1]",
        "[0, 1, 1]",
        "[1, 2, 3]",
        "[0, 1, 2, 3]",
        '["0", "1", "2"]',
        "[0.0, 1, 2]",
        "0 1 2",
        '{"ranking": [0, 1, 2]}',
        "[true, 0, 2]",
    ],
)
def test_a_ranking_that_is_no_order_of_the_texts_masks_the_group(text):
    with server(lambda path, body: text_answer(text)) as (url, _):
        assert rank(url, ["a", "bb", "ccc"]) == [None] * 3
    assert counted() == {"requests": 2, "bad_answer": 1}


def test_a_group_is_masked_when_the_budget_ends_between_its_two_orders():
    with server(shortest_first) as (url, received):
        assert rank(url, ["a", "bb"], max_calls=1) == [None, None]
    assert len(received) == 1


def test_an_empty_group_has_no_scores():
    options = {"judges": CURRENT.judges, "url": "http://127.0.0.1:9", "model": "m", "rubric": ""}
    assert judge_group(TASK, [], **options) == []


def test_both_parts_share_one_budget():
    with server(
        lambda path, body: (
            GOOD if "score" in body["messages"][0]["content"] else shortest_first(path, body)
        )
    ) as (
        url,
        received,
    ):
        assert ask(url, max_calls=2) == pytest.approx(0.7)
        assert rank(url, ["a", "bb"], max_calls=2) == [None, None]
    assert len(received) == 2


def test_opinions_are_marked_as_not_grounded():
    declared = [(vars(part)["grounded"], vars(part)["of_group"]) for part in (judge, judge_group)]
    assert declared == [(False, False), (False, True)]
