"""ToolRL's reward, worked out by hand from the paper's formulas and the authors' code (8cee13e)."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.errors import UsageError
from envgym.rewards.scoring.toolrl import (
    assistant_text,
    correctness_score,
    format_score,
    length_score,
    truth_calls,
)
from envgym.rewards.scoring.toolrl_match import greedy_pairs, optimal_pairs
from tests.fakes.toolrl_answers import BOTH, CALL, FORMS, NEITHER, RESPONSE, STAY, answer, call
from tests.gym.rewards.toolrl_blocks import correctness

# --- format ---


@pytest.mark.parametrize("truth", FORMS)
def test_the_truth_says_which_tags_are_due(truth):
    assert [form for form in FORMS if format_score(form, truth) == 1.0] == [truth]


@pytest.mark.parametrize(
    "text",
    [
        CALL.replace("<think>", "", 1),
        CALL.replace("</think>\n", "</think>"),
        CALL.replace("</think>\n", "</think>\n\n"),
        CALL.replace("\n", "\r\n"),
        CALL.replace("<tool_call>\n", "<tool_call>"),
        CALL.replace("\n</tool_call>", "</tool_call>"),
        f"Well: {CALL}",
        f"{CALL} Done.",
        answer(STAY, think="I write <tool_call> now"),
        answer(STAY, think="I write </tool_call> later"),
        f"{CALL}\n<tool_call>\n{{}}\n</tool_call>",
        "",
    ],
)
def test_one_letter_beside_the_form_is_no_format(text):
    assert format_score(text, CALL) == 0.0


def test_outer_white_space_and_the_number_of_think_tags_do_not_matter():
    assert format_score(f"\n {CALL} \n", CALL) == 1.0
    assert format_score(answer(STAY, think="a</think> b <think>c"), CALL) == 1.0
    assert format_score("<think>a</think> and <think>b</think>", NEITHER) == 1.0


def test_a_response_must_stand_once_and_after_the_call():
    turned = "<think>a</think>\n<response>r</response>\n<tool_call>\n{}\n</tool_call>"
    assert format_score(turned, BOTH) == 0.0
    assert format_score(BOTH + "<response>again</response>", BOTH) == 0.0
    assert (
        format_score(answer(STAY, think="no <response>"), CALL) == 1.0
    )  # a tag that is not required is not counted


def test_a_call_inside_the_thought_is_tolerated_where_a_response_is_due():
    assert format_score(f"{CALL}</think>\n<response>r</response>", RESPONSE) == 1.0


# --- length ---


LENGTHS = [
    (0, 512, 0),
    (100, 512, 0.2),
    (256, 512, 0.5),
    (512, 512, 1),
    (9000, 512, 1),
    (192, 384, 0.5),
    (320, 640, 0.5),
]


@pytest.mark.parametrize(("words", "target", "score"), LENGTHS)
def test_length_is_the_share_of_the_target_in_hundredths(words, target, score):
    assert (
        length_score(answer(think="w " * words), target=target) == score
    )  # 100/512 = 0.195 is 0.2


def test_the_thought_that_counts_is_the_last_and_both_its_tags_are_needed():
    assert length_score("<think>a b c</think><think>d</think>", target=10) == 0.1
    assert length_score("</think> x <think>a b", target=10) == 0.2
    assert length_score("<think>a b", target=10) == length_score("a b</think>", target=10) == 0.0
    with pytest.raises(UsageError, match="above 0"):
        length_score("", target=0)


# --- the assistant's text ---


def test_the_text_is_what_follows_the_last_header_up_to_the_first_end_marker():
    qwen = (
        "<|im_start|>assistant\nold<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
        "<|im_start|>assistant\n new <|im_end|>x<|im_end|>"
    )
    llama = "<|start_header_id|>assistant<|end_header_id|>\n\nnew<|eot_id|><|eot_id|>"
    assert assistant_text(qwen, template="qwen") == assistant_text(llama, template="llama") == "new"
    assert (
        assistant_text(" new<|im_end|>", template="llama") == "new<|im_end|>"
    )  # no header, other marker: the whole text
    assert assistant_text(f" {qwen}") == qwen
    assert assistant_text("begun <|im_start|>assistant cut", template="qwen") == "cut"
    with pytest.raises(UsageError, match="did you mean 'qwen'"):
        assistant_text("", template="qwen2")  # type: ignore[arg-type]


# --- matching ---


def test_greedy_matching_may_take_from_a_later_call_what_fits_it_better():
    wanted = [call("f", x=1, y=2), call("f", x=1, y=3)]  # S = 7
    made = [call("f", x=1, y=3), call("f", x=0, y=0)]
    assert correctness_score(answer(*made), answer(*wanted)) == pytest.approx(4 / 7)  # 1 + 2 + 1
    assert correctness_score(answer(*made), answer(*wanted), matching="optimal") == pytest.approx(
        5 / 7
    )  # 1 + 1 + 3
    assert correctness(made, *wanted, matching="optimal") == pytest.approx(6 * 5 / 7 - 3)


def test_greedy_takes_the_first_of_equals_and_never_what_gains_nothing():
    assert greedy_pairs([[1.0, 2.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) == {0: 1}
    assert greedy_pairs([[], []]) == {}


GAINS = st.sampled_from([0.0, 0.5, 1.0, 1.25, 3.0])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(GAINS, min_size=width, max_size=width), max_size=4)
    )
)
def test_optimal_pairs_are_the_best_of_all_that_there_are(gains):
    pairs = optimal_pairs(gains)
    width = len(gains[0]) if gains else 0
    seats = [*range(width), *[None] * len(gains)]  # a row may stay unmatched
    ways = itertools.permutations(seats, len(gains))
    best = max(
        sum(row[j] for row, j in zip(gains, way, strict=True) if j is not None) for way in ways
    )
    assert sum(gains[i][j] for i, j in pairs.items()) == pytest.approx(best)
    assert len(set(pairs.values())) == len(pairs)
    assert all(gains[i][j] > 0 for i, j in pairs.items())


# --- hedging ---


GUESSES = [call("stay", city="Oslo", nights=n) for n in range(1, 11)]
PADDED = call("stay", **STAY["parameters"], **{f"x{n}": n for n in range(8)})
HEDGES = {
    "ten guesses": (GUESSES, 1.65, 3.1 / 31),  # (1/10 + 3) / 4; nine calls of three points more
    "two guesses": (GUESSES[:2], 2.25, 3.5 / 7),  # (1/2 + 3) / 4
    "eight keys": ([PADDED], 1.80, 3.2 / 12),  # (1 + 2/10 + 2) / 4
    "nine tools": ([STAY, *(call(f"t{n}") for n in range(9))], 1.65, 3.1 / 13),
}


@pytest.mark.parametrize("hedge", HEDGES)
def test_the_guard_makes_each_hedge_worse_than_one_wrong_guess(hedge):
    made, unguarded, guarded = HEDGES[hedge]
    assert correctness(made, STAY) == pytest.approx(unguarded)
    assert correctness(made, STAY, guard=True) == pytest.approx(6 * guarded - 3)
    assert correctness([call("stay", city="Oslo", nights=9)], STAY, guard=True) == pytest.approx(
        1.5
    )
    for how in itertools.product(
        ("default", "refined", "intermediate", "coarse"), ("greedy", "optimal"), ("multiset", "set")
    ):
        switches = dict(zip(("granularity", "matching", "names"), how, strict=True))
        assert correctness(made, STAY, guard=True, **switches) < 1.5


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.sampled_from(["greedy", "optimal"])
)
@settings(max_examples=60, deadline=None)
def test_no_number_of_guesses_or_keys_beats_one_wrong_value(calls, parameters, more, matching):
    wanted = [call(f"t{i}", **{f"p{j}": 0 for j in range(parameters)}) for i in range(calls)]
    guesses = [call("t0", **(wanted[0]["parameters"] | {"p0": n})) for n in range(1, more + 1)]
    padded = [
        call("t0", **wanted[0]["parameters"], **{f"x{n}": n for n in range(more)}),
        *wanted[1:],
    ]
    one_wrong = correctness([guesses[0], *wanted[1:]], *wanted, guard=True, matching=matching)
    assert correctness([*guesses, *wanted], *wanted, guard=True, matching=matching) < one_wrong
    assert correctness(padded, *wanted, guard=True, matching=matching) < one_wrong


def test_the_guard_leaves_alone_what_adds_nothing():
    wanted = [STAY, call("leave")]
    for made in (
        [*wanted],
        [*wanted[::-1]],
        [STAY],
        [call("stay", city="Oslo")],
        [call("stay", city="Rome", nights=2), wanted[1]],
    ):
        assert correctness(made, *wanted, guard=True) == correctness(made, *wanted)


# --- unreadable ground truth ---


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{'name': 'f'}", "line 2 of <tool_call> is not JSON"),
        ("", "is not JSON"),
        ('{"name": "f"}', "line 2 of .* must look like"),
        ('{"name": "f", "arguments": {}}', '"parameters": {...}'),
        ("[]", "must look like"),
        ('{"parameters": {}}', "must look like"),
    ],
)
def test_a_malformed_truth_is_the_users_mistake(line, what):
    truth = (
        f"<think>a</think>\n<tool_call>\n{json.dumps(STAY)}\n{line}\n"
        f"{json.dumps(STAY)}\n</tool_call>"
    )
    for granularity in ("default", "refined", "intermediate", "coarse"):
        with pytest.raises(UsageError, match=what):
            correctness_score("", truth, granularity=granularity)


def test_calls_of_a_truth_are_read_from_its_first_block():
    assert truth_calls(BOTH) == [STAY]
    assert truth_calls(RESPONSE) == []
