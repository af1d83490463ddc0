"""Reward terms: schedules, ranges, gates and shaping, with the contribution of each part."""

import math
import random

import pytest
from pydantic import ValidationError

from envgym.spec.reward import PartSpec, at_step, check_gates
from envgym.terms import Term, compose, compose_turns, failure_terms, shaping, total, turn_rewards


def part(**rule):
    return PartSpec.model_validate({"from": "x", **rule})


def test_a_schedule_is_straight_between_its_steps_and_constant_outside():
    grows = {10: 0.0, 30: 1.0}
    assert [at_step(grows, step) for step in (0, 10, 20, 30, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert at_step(0.7, 5) == 0.7


def test_neighbouring_steps_are_a_jump():
    stages = part(range=[{29: -1, 30: -3}, {29: 1, 30: 3}])
    assert [
        compose({"p": stages}, {"p": 1.0}, step=step)["p"].value for step in (0, 29, 30, 100)
    ] == [1, 1, 3, 3]
    assert compose({"p": stages}, {"p": 0.0}, step=30)["p"].value == -3


def test_a_range_says_what_0_and_1_become_and_a_clip_bounds_it():
    rule = part(range=[-3, 3], clip=[-2, 2], weight=0.5)
    values = [compose({"p": rule}, {"p": raw})["p"] for raw in (0.0, 0.5, 0.75, 1.0)]
    assert [term.value for term in values] == [-2.0, 0.0, 1.5, 2.0]
    assert [term.contribution for term in values] == [-1.0, 0.0, 0.75, 1.0]


def test_a_weight_may_grow_with_training():
    rule = part(weight={0: 0.0, 100: 0.5})
    assert [
        compose({"p": rule}, {"p": 1.0}, step=step)["p"].contribution for step in (0, 50, 200)
    ] == [0.0, 0.25, 0.5]


def test_a_gated_part_counts_only_where_the_other_is_met():
    rules = {"solved": part(), "polite": part(weight=0.2, gate="solved")}
    shut = compose(rules, {"solved": 0.0, "polite": 1.0})["polite"]
    assert (shut.raw, shut.value, shut.gate_is_open, shut.contribution) == (1.0, 0.0, False, 0.0)
    assert compose(rules, {"solved": 1.0, "polite": 1.0})["polite"].contribution == 0.2
    half = part(gate={"on": "solved", "at_least": 0.5})
    assert compose({"polite": half}, {"solved": 0.5, "polite": 1.0})["polite"].gate_is_open


def test_behind_a_gate_that_nobody_can_judge_a_part_is_not_scored_either():
    term = compose({"polite": part(gate="solved")}, {"solved": None, "polite": 1.0})["polite"]
    assert (term.value, term.contribution) == (None, 0.0)


def test_what_does_not_apply_contributes_nothing_wherever_its_range_begins():
    term = compose({"p": part(range=[-3, 3])}, {"p": None})["p"]
    assert (term.raw, term.value, term.contribution) == (None, None, 0.0)


def test_a_part_per_turn_is_paid_for_each_turn_that_it_speaks_of():
    term = compose_turns(part(range=[-1, 1], weight=2.0), [1.0, None, 0.0, 0.5])
    assert (term.by_turn, term.value, term.raw) == ((1.0, 0.0, -1.0, 0.0), 0.0, 1.5)
    assert turn_rewards({"p": term}, 4) == (2.0, 0.0, -2.0, 0.0)
    assert compose_turns(part(), [None, None]).value is None


def test_shaping_telescopes_so_that_it_moves_credit_and_adds_nothing():
    assert shaping([0.0, 0.25, 1.0], discount=1.0) == (0.25, -0.25)
    assert math.fsum(shaping([0.5, 0.1, 0.9, 0.4], discount=1.0)) == pytest.approx(
        -0.5
    )  # minus the start's potential
    paid = shaping([0.5, 0.1, 0.9, 0.4], discount=0.9)
    assert sum(0.9**k * reward for k, reward in enumerate(paid)) == pytest.approx(-0.5)
    assert shaping([0.3], discount=1.0) == ()


def test_whoever_gives_up_gets_the_lowest_end_of_what_is_worth_having():
    rules = {
        "right": part(range=[-3, 3]),
        "form": part(),
        "extra": part(weight=-1.0),
        "seen": part(weight=0.0, range=[-9, 0]),
    }
    assert {
        name: term.contribution
        for name, term in failure_terms(rules, dict.fromkeys(rules, 0.0)).items()
    } == {
        "right": -3.0,
        "form": 0.0,
    }
    assert (
        total(failure_terms({"right": part(range=[{0: -1, 10: -3}, 3])}, {"right": 0.0}, step=5))
        == -2.0
    )
    assert (
        total(failure_terms({"right": part(range=[1, 2])}, {"right": 0.0})) == 0.0
    )  # giving up never pays
    assert total(failure_terms({"right": part(weight=0.5)}, {"right": -3.0})) == -1.5


def test_no_reward_is_found_that_its_terms_do_not_add_up_to():
    rng = random.Random(7)
    for _ in range(2000):
        rules = {}
        raw = {}
        for name in "abcd"[: rng.randint(1, 4)]:
            gate = rng.choice([None, *raw]) if raw else None
            rules[name] = part(
                weight=rng.choice([rng.uniform(-2, 2), {0: 0.0, 50: rng.uniform(-1, 1)}]),
                range=[rng.uniform(-3, 0), rng.uniform(0, 3)],
                clip=rng.choice([None, [-1, 1]]),
                gate=None if gate is None else {"on": gate, "at_least": rng.random()},
            )
            raw[name] = rng.choice([None, rng.uniform(-1, 2), 0.0, 1.0])
        terms = compose(rules, raw, step=rng.randrange(80))
        turns = rng.randint(1, 5)
        terms["turnwise"] = compose_turns(
            part(weight=rng.uniform(-1, 1)),
            [rng.choice([None, rng.random()]) for _ in range(turns)],
        )
        assert total(terms) == pytest.approx(
            sum(term.weight * (term.value or 0.0) for term in terms.values()), abs=1e-12
        )
        assert sum(turn_rewards(terms, turns)) == pytest.approx(total(terms), abs=1e-12)
        assert total(dict(reversed(terms.items()))) == total(terms)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"weight": {}}, "at least 1 item"),
        ({"weight": {-1: 1.0}}, "greater than or equal to 0"),
        ({"weight": "high"}, "valid number"),
        ({"clip": [1, 0]}, "lower bound 1 must be below"),
        ({"range": [0]}, "Field required"),
        ({"per": "word"}, "'episode', 'turn'"),
        ({"discount": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, told):
    with pytest.raises(ValidationError, match=told):
        part(**rule)


def test_a_gate_must_lead_to_another_part_and_leave_turns_alone():
    with pytest.raises(ValueError, match=r"polite\.gate: no other part 'solvd'"):
        check_gates({"polite": part(gate="solvd")})
    with pytest.raises(ValueError, match="no other part 'polite'"):
        check_gates({"polite": part(gate="polite")})
    with pytest.raises(ValueError, match="`per: turn` is paid before the episode's end"):
        check_gates({"solved": part(), "polite": part(gate="solved", per="turn")})


def test_a_term_without_a_value_contributes_nothing():
    assert Term(None, None, 5.0).contribution == 0.0
