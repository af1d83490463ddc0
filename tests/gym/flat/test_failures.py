"""Too many void episodes stop the run with a reason and keep the finished episodes."""

import json

import pytest

from envgym.commands import main
from envgym.env import ToolWorld
from envgym.episode import Episode, Failure
from envgym.errors import TooManyFailures
from envgym.evaluation.evaluate import evaluate
from envgym.failures import LEAST, WINDOW, FailureLimit
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from tests.fakes.shop_env import shop, write

CRASH = Failure("tool_crashed", "call", "tools.py, line 30\nZeroDivisionError: division by zero")
GONE = Failure("sandbox_lost", "open", "the box ended")
BROKEN_GRADER = "def broken(evidence):\n    return 1 / 0 if evidence.task.level == 'L0' else 0.0\n"


def episode(failure=None, first=None) -> Episode:
    return Episode(
        "e",
        "t",
        "train",
        "",
        "",
        0,
        (),
        None,
        None if failure else 1.0,
        failure=failure,
        retried_failure=first,
    )


def counted(cap: FailureLimit, *episodes: Episode) -> int:
    """Return how many of the episodes the limit accepts."""
    for number, each in enumerate(episodes):
        try:
            cap.count(each)
        except TooManyFailures:
            return number
    return len(episodes)


def test_below_the_least_number_of_attempts_nothing_is_concluded():
    cap = FailureLimit(0.25, logged="")
    assert (
        counted(cap, *[episode(CRASH, CRASH)] * 8) == LEAST // 2 - 1
    )  # the eighth makes 16 attempts


def test_the_share_itself_is_allowed_and_more_is_not():
    assert counted(FailureLimit(0.25, logged=""), *[episode()] * 12, *[episode(CRASH)] * 4) == 16
    assert counted(FailureLimit(0.25, logged=""), *[episode()] * 12, *[episode(CRASH)] * 5) == 16


def test_a_first_attempt_that_failed_counts_though_the_second_went_well():
    assert counted(FailureLimit(0.4, logged=""), *[episode(first=CRASH)] * 20) == 7


def test_what_lies_far_back_is_forgotten_and_a_world_that_breaks_late_is_noticed_soon():
    cap = FailureLimit(0.25, logged="")
    assert counted(cap, *[episode()] * 1000, *[episode(CRASH)] * 100) == 1000 + WINDOW // 4


def test_a_cap_of_one_never_stops():
    assert counted(FailureLimit(1.0, logged=""), *[episode(CRASH, CRASH)] * 100) == 100


def test_the_message_names_the_share_the_commonest_kind_with_its_words_the_log_and_the_remedy():
    cap = FailureLimit(0.5, logged="Every episode is in runs/x/episodes.jsonl.")
    counted(cap, *[episode(GONE)] * 2, *[episode()] * 6)
    counted(cap, *[episode(CRASH)] * 7)
    with pytest.raises(TooManyFailures) as caught:
        cap.count(episode(CRASH))
    for words in (
        "10 of the last 16 episodes",
        "(62%; episode.max_void_fraction allows 50%)",
        "(8 times): tool_crashed in call",
        "ZeroDivisionError: division by zero",
        "runs/x/episodes.jsonl",
        "envgym check",
        "episode.max_void_fraction=0.6",
    ):
        assert words in str(caught.value)


def test_an_evaluation_in_a_broken_world_stops_early_and_keeps_what_it_played(tmp_path):
    (tmp_path / "rewards.py").write_text(BROKEN_GRADER)
    world = ToolWorld(shop(tmp_path, "reward.bad={from: rewards.py:broken}"))
    policy = ScriptedPolicy(["set_price(item='I1', price=1)"])
    file = tmp_path / "episodes.jsonl"
    with pytest.raises(TooManyFailures, match="division by zero"):
        evaluate(
            world,
            policy,
            name="x",
            split="train",
            levels=["L0"],
            tasks=200,
            workers=2,
            progress=False,
            episodes_file=file,
        )
    world.close()
    kept = [Episode.from_json(line) for line in file.read_text().splitlines()]
    assert LEAST // 2 <= len(kept) < 200
    assert all(each.is_void and len(each.failures) == 2 for each in kept)


def test_envgym_eval_stops_with_exit_code_1_and_says_how_to_allow_more(tmp_path, capsys):
    path = write(tmp_path)
    (tmp_path / "rewards.py").write_text(BROKEN_GRADER)
    command = [
        "eval",
        str(path),
        "reward.bad={from: rewards.py:broken}",
        "--policy",
        "oracle",
        "--split",
        "train",
        "--tasks",
        "60",
        "--json",
    ]
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "episode.max_void_fraction allows 25%" in said.err
    assert "To keep every episode: --episodes FILE" in said.err
    assert 'Traceback (most recent call last)\n  File "<' not in said.err
    assert main([*command, "episode.max_void_fraction=1"]) == 0
    (outcome,) = json.loads(capsys.readouterr().out)
    assert outcome["void"] == 30  # tasks of level L0; the others are valid


def test_a_well_world_is_left_alone(tmp_path):
    world = ToolWorld(shop(tmp_path, "episode.max_void_fraction=0"))
    assert (
        evaluate(
            world, OraclePolicy("pythonic"), name="oracle", split="train", tasks=40, progress=False
        ).total.rate
        == 1
    )
    world.close()


FAILING_TOOLS = (
    'def set_price(db, item: str, price: int) -> str:\n    """Change the price."""\n'
    "    return str(1 / 0)\n"
    'def price(db, item: str) -> str:\n    """The price."""\n    return \'1\'\n'
    'def tell(text: str) -> str:\n    """Say."""\n    return text\n'
    'def close() -> str:\n    """End."""\n    return \'closed\'\n'
)


@pytest.mark.parametrize("statement", ["return str(1 / 0)", "return {}[item]", "import no_module"])
def test_tools_that_fail_for_every_call_of_a_model_do_not_end_an_evaluation(tmp_path, statement):
    tools = FAILING_TOOLS.replace("return str(1 / 0)", statement)
    world = ToolWorld(shop(tmp_path, tools=tools))
    policy = ScriptedPolicy(["set_price(item='I1', price=1)"])
    outcome = evaluate(
        world, policy, name="x", split="train", levels=["L0"], tasks=40, progress=False
    )
    world.close()
    assert (outcome.total.successes, outcome.total.n, outcome.void) == (0, 40, 0)
