"""Budget, cache and counts of judges; they belong to a world."""

import threading

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError, UsageError
from envgym.rewards.parts.judge import judge
from envgym.rewards.scoring.llm_judge import Judges
from tests.fakes.shop_env import shop
from tests.gym.policies.test_openai import server, text_answer
from tests.gym.rewards.judge_requests import CURRENT, GOOD, ask, counted, in_turn, said


@pytest.fixture(autouse=True)
def judges(monkeypatch):
    """Judges of one world, for each test anew."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    opened = Judges()
    monkeypatch.setattr(CURRENT, "judges", opened)
    yield opened
    opened.close()


# --- budget and cache ---


def test_the_server_never_gets_more_requests_than_the_budget():
    with server(lambda path, body: GOOD) as (url, received):
        scores = [ask(url, f"text {n}", max_calls=3) for n in range(5)]
    assert scores == [pytest.approx(0.7)] * 3 + [None] * 2
    assert len(received) == 3
    assert counted() == {"requests": 3, "judgements": 3, "budget": 2}


def test_the_budget_holds_between_threads_and_retries():
    with server(lambda path, body: text_answer("no")) as (url, received):
        threads = [
            threading.Thread(target=ask, args=(url, f"text {n}"), kwargs={"max_calls": 7})
            for n in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(received) == 7
    assert counted()["requests"] == 7
    assert counted()["budget"] + counted().get("bad_answer", 0) == 12


def test_no_budget_asks_nobody():
    with server(lambda path, body: GOOD) as (url, received):
        assert ask(url, max_calls=0) is None
    assert received == []


def test_the_same_text_is_judged_once_and_another_rubric_is_another_question():
    with server(lambda path, body: GOOD) as (url, received):
        assert [ask(url), ask(url), ask(url, "Other.")] == [pytest.approx(0.7)] * 3
        judge(said("Hello."), judges=CURRENT.judges, url=url, model="m", rubric="10: short.")
    assert len(received) == 3
    assert counted() == {"requests": 3, "judgements": 3, "cached": 1}


def test_a_failure_is_not_remembered():
    with server(in_turn((500, {}), (500, {}), GOOD)) as (url, received):
        assert ask(url) is None
        assert ask(url) == pytest.approx(0.7)
    assert len(received) == 3


def test_a_cache_file_outlives_the_process_and_the_server(tmp_path, monkeypatch):
    cache = str(tmp_path / "run" / "judge.jsonl")
    with server(lambda path, body: GOOD) as (url, _):
        assert ask(url, cache=cache) == pytest.approx(0.7)
    monkeypatch.setattr(CURRENT, "judges", Judges())  # as in a new process
    assert ask(url, cache=cache) == pytest.approx(0.7)
    assert counted() == {"cached": 1}
    assert ask(url, "unknown", cache=cache) is None


@pytest.mark.parametrize("line", ["no json", "{}", "[]", '{"key": "x"}'])
def test_a_cache_that_cannot_be_read_says_which_line(tmp_path, line):
    cache = tmp_path / "judge.jsonl"
    cache.write_text(f'{{"key": "a", "answer": "b"}}\n{line}\n')
    with pytest.raises(UsageError, match=r"judge\.jsonl:2: no judgement: .*Delete the line"):
        ask("http://127.0.0.1:9", cache=str(cache))


# --- judges belong to a world ---


def judged_world(folder, url, *more):
    folder.mkdir(exist_ok=True)
    settings = f"{{url: '{url}', model: m, rubric: R, max_calls: 2}}"
    part = f"reward.tone={{from: judge, options: {settings}}}"
    return ToolWorld(shop(folder, part, *more))


def play_once(world, text):
    env = world.env()
    env.reset(options={"task": "test/reprice/0"})
    return env.step(text)[4]["reward_parts"]["tone"]


def test_two_worlds_in_one_process_have_their_own_budgets_and_counts(tmp_path):
    with server(lambda path, body: GOOD) as (url, received):
        first, second = (judged_world(tmp_path / name, url) for name in "ab")
        tones = [play_once(first, f"text {n}") for n in range(3)]
        assert tones == [pytest.approx(0.7), pytest.approx(0.7), None]
        first.close()
        assert play_once(second, "text 0") == pytest.approx(
            0.7
        )  # a new request: each world has its own cache
        assert len(received) == 3
        assert counted(first.rubric.judges) == {"requests": 2, "judgements": 2, "budget": 1}
        assert counted(second.rubric.judges) == {"requests": 1, "judgements": 1}
        second.close()


def test_a_world_closes_its_judges(tmp_path):
    with server(lambda path, body: GOOD) as (url, _):
        world = judged_world(tmp_path, url)
        play_once(world, "text")
        world.close()
        world.close()
        with pytest.raises(UsageError, match="judges of this world are closed"):
            world.rubric.judges.open(url, "m")
    assert counted(world.rubric.judges) == {"requests": 1, "judgements": 1}


def test_a_part_of_ones_own_shares_the_worlds_judge(tmp_path):
    own = """\
from envgym import reward_part
from envgym.rewards.scoring.llm_judge import score_text

@reward_part(grounded=False, uses_judges=True)
def kind(evidence, *, judges, url):
    judge = judges.open(url, "m", max_calls=2, timeout_seconds=30.0, cache=None)
    return score_text(judge, evidence.final_message, request="", rubric="R")
"""
    with server(lambda path, body: GOOD) as (url, received):
        (tmp_path / "own.py").write_text(own)
        part = f"reward.kind={{from: 'own.py:kind', options: {{url: '{url}'}}}}"
        world = judged_world(tmp_path, url, part)
        assert play_once(world, "text") == pytest.approx(0.7)
        assert len(received) == 2
        assert play_once(world, "another text") is None  # shared budget of two
        world.close()


def test_the_judges_are_no_option_of_the_yaml(tmp_path):
    options = "{url: 'http://x', model: m, rubric: R, judges: 3}"
    with pytest.raises(SpecError, match=r"reward\.tone: 'judge' has no option 'judges'"):
        ToolWorld(shop(tmp_path, f"reward.tone={{from: judge, options: {options}}}"))
