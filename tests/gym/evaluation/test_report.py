import dataclasses
import io
import json

import pytest
from rich.console import Console

from envgym import make_world
from envgym.episode import Episode, Failure
from envgym.evaluation.episode_text import episode_lines, print_episode
from envgym.evaluation.evaluate import trained_templates
from envgym.evaluation.report import (
    HELD_OUT,
    IN_DOMAIN,
    Outcome,
    describe_gain,
    describe_gap,
    outcomes_table,
    print_outcomes,
    to_json,
    to_markdown,
)
from envgym.messages import Message
from envgym.spec.environment import load_spec
from envgym.terms import PENALTY, Term


def episode(success: bool | None, level: str = "L0", **fields) -> Episode:
    reward = float(bool(success))
    return Episode(
        "demo",
        "test/t/0",
        "test",
        level,
        "t",
        0,
        (Message("user", "[bold] hi"),),
        None,
        reward,
        success=success,
        **fields,
    )


def void() -> Episode:
    return Episode(
        "demo",
        "test/t/0",
        "test",
        "L0",
        "t",
        0,
        (),
        None,
        None,
        failure=Failure("timeout", "call", "slow"),
    )


def outcome(successes: int, n: int, name: str = "trained") -> Outcome:
    return Outcome.of(name, [episode(index < successes) for index in range(n)])


def rendered(rows) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(outcomes_table(rows))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_successes_are_counted_by_level_and_void_ones_not_at_all():
    result = Outcome.of("model", [episode(True), episode(False), episode(True, "L1"), void()])
    assert (result.total.successes, result.total.n, result.played, result.void) == (2, 3, 3, 1)
    assert {level: count.rate for level, count in result.levels.items()} == {"L0": 0.5, "L1": 1.0}


def test_a_rate_carries_wilsons_interval():
    assert outcome(8, 10).total.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert outcome(8, 10).total.text() == "80 % (49-94)"


def test_nothing_played_is_a_dash_and_no_zero():
    nothing = Outcome.of("model", [void()])
    assert nothing.total.text() == "-"
    assert nothing.reward is None
    assert nothing.summary() == "0 episodes · 1 void"


def test_an_environment_without_success_reports_its_reward():
    assert (
        Outcome.of("model", [episode(None), episode(None)]).summary() == "2 episodes · reward 0.00"
    )


def test_one_line_names_levels_only_where_there_are_several():
    assert outcome(8, 10).summary() == "80 % (49-94) of 10 tasks · reward 0.80"
    assert "L1 100 % (21-100)" in Outcome.of("m", [episode(False), episode(True, "L1")]).summary()


def test_an_outcome_comes_back_from_json_as_it_was():
    before = Outcome.of("model", [episode(True), episode(False, "L1"), void()])
    [plain] = json.loads(to_json([before]))
    assert Outcome.from_dict(plain) == before
    assert plain["total"]["rate"] == 0.5
    assert plain["levels"]["L0"] == {
        "successes": 1,
        "n": 1,
        "rate": 1.0,
        "low": pytest.approx(0.2065, abs=1e-4),
        "high": 1.0,
    }


def test_the_table_has_a_column_a_policy_and_a_row_a_level():
    base = Outcome.of("base", [episode(False), episode(False, "L1")])
    text = rendered([base, Outcome.of("trained", [episode(True), episode(True, "L2")])])
    head = next(line for line in text.splitlines() if "base" in line)
    assert head.index("base") < head.index("trained")
    [l1] = [line for line in text.splitlines() if "L1" in line]
    assert "0 % (0-79)" in l1
    assert "-" in l1.split("│")[3]  # the trained policy got no L1 task


def test_void_episodes_show_in_the_table_only_where_there_are_some():
    assert "void" not in rendered([outcome(1, 2)])
    assert "void" in rendered([Outcome.of("m", [episode(True), void()])])


def test_markdown_has_the_table_and_the_gain():
    text = to_markdown([outcome(10, 100, "warm start"), outcome(90, 100)])
    assert "| all | 10 % (6-17) | 90 % (83-94) |" in text
    assert "- trained is 80 points above warm start" in text


def test_a_gain_says_whether_the_intervals_overlap():
    assert describe_gain(outcome(40, 100, "warm"), outcome(80, 100)).endswith(
        "the two intervals do not overlap."
    )
    assert describe_gain(outcome(40, 100, "warm"), outcome(45, 100)).endswith(
        "the two intervals overlap."
    )
    assert "20 points below" in describe_gain(outcome(60, 100, "warm"), outcome(40, 100))


def test_json_goes_to_standard_output_alone(capsys):
    print_outcomes([outcome(1, 2)], as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["policy"] == "trained"


def test_what_a_model_says_is_never_read_as_markup():
    console = Console(file=io.StringIO(), width=80)
    print_episode(episode(True), console=console)
    assert "[bold] hi" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_episode_ends_in_plain_lines():
    lines = episode_lines(
        episode(
            True,
            reward_parts={"solved": 1.0, "polite": None},
            stop_reason="answered",
            turns=2,
            tool_calls=1,
        )
    )
    assert lines == [
        "solved · reward 1 · answered · 2 turns · 1 tool calls, 0 refused",
        "  solved: 1",
        "  polite: did not apply",
    ]
    terms = {
        "solved": Term(1.0, 1.0, 1.0),
        "polite": Term(3.0, 0.0, 0.5, gate_is_open=False),
        "brief": Term(0.5, 0.5, 2.0),
    }
    parts = {"solved": 1.0, "polite": 3.0, "brief": 0.5}
    lines = episode_lines(
        episode(True, reward_parts=parts, reward_terms=terms | {PENALTY: Term(1.0, -2.0, 1.0)})
    )
    assert lines[1:] == [
        "  solved: 1",
        "  polite: 3, adds 0 (gate shut)",
        "  brief: 0.5, adds 1",
        "  penalty: adds -2",
    ]
    assert episode_lines(void()) == ["void: timeout in call: slow"]


def mixed(known: int, new: int, of: int = 40) -> Outcome:
    """Outcome with `known` of `of` solved for a trained template and `new` for an untrained one."""
    episodes = [dataclasses.replace(episode(index < known), template="seen") for index in range(of)]
    episodes += [dataclasses.replace(episode(index < new), template="new") for index in range(of)]
    return Outcome.of("trained", episodes, trained={"seen", "other"})


def test_templates_that_were_never_trained_are_counted_apart_with_the_gap_and_its_interval():
    outcome = mixed(30, 20)
    assert {name: (count.successes, count.n) for name, count in outcome.domains.items()} == {
        IN_DOMAIN: (30, 40),
        HELD_OUT: (20, 40),
    }
    assert (
        describe_gap(outcome)
        == "trained: 25 points more in-domain than on held-out templates (95 %: 4 to 43)."
    )  # .25 - .2121, .25 + .1833
    assert describe_gap(mixed(10, 20)).startswith("trained: 25 points less in-domain")
    assert describe_gap(outcome) in to_markdown([outcome])
    assert "| held-out templates | 50 % (35-65) |" in to_markdown([outcome])
    assert Outcome.from_dict(json.loads(to_json([outcome]))[0]) == outcome


def test_there_is_no_gap_where_all_is_of_one_kind_or_nobody_knows():
    assert Outcome.of("m", [episode(True)], trained={"t"}).domains == {}
    assert Outcome.of("m", [episode(True)], trained=()).domains == {}
    assert describe_gap(outcome(1, 2)) == ""
    plain = outcome(1, 2).to_dict()
    del plain["domains"]  # as in runs made before domains existed
    assert Outcome.from_dict(plain) == outcome(1, 2)


def test_an_evaluation_knows_which_templates_are_trained():
    world = make_world(load_spec("crm"))
    try:
        trained = trained_templates(world.tasks)
        assert {
            name for name, each in world.tasks.templates.items() if each.splits == ("test",)
        }.isdisjoint(trained)
        assert len(trained) < len(world.tasks.templates)
    finally:
        world.close()
