"""Episodes run from reset to the end; a failed world voids one episode, which is retried once."""

import json
import time

import pytest

from envgym.bridges.gymnasium import ForeignWorld
from envgym.env import ToolWorld
from envgym.episode import Episode
from envgym.errors import SpecError, UsageError, WorldFailure
from envgym.evaluation.episode_text import episode_lines
from envgym.playing import Request, play, play_many
from envgym.policies import Completion
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from tests.fakes.shop_env import shop

BROKEN_GRADERS = """\
import pathlib

def breaks_once(evidence):
    flag = pathlib.Path(__file__).with_name("flag")
    if not flag.exists():
        flag.touch()
        return 1 / 0
    return 0.0

def breaks_at_2(evidence):
    return 1 / 0 if evidence.task.id.endswith("/2") else 0.0
"""
"""Graders that raise: failures of the world."""


@pytest.fixture
def world(tmp_path):
    world = ToolWorld(shop(tmp_path))
    yield world
    world.close()


def scripted(*texts):
    return ScriptedPolicy(list(texts))


def solve_then_wait(task, turn):
    if turn == 0:
        return "set_price(item={item!r}, price={price})".format(**task.oracle[0].arguments)
    return wait(task, turn)


def wait(task, turn):
    time.sleep(0.5)
    return "Done." if turn > 1 else "tell(text='a')"


def test_the_record_holds_what_was_said_done_and_earned(world):
    episode = play(world.env(), OraclePolicy("pythonic"), seed=3, task="test/reprice/1")
    assert [m.role for m in episode.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert (episode.env_id, episode.task_id, episode.split, episode.level) == (
        "test/shop-v0",
        "test/reprice/1",
        "test",
        "L0",
    )
    assert (episode.reward, episode.success, episode.stop_reason, episode.turns) == (
        1.0,
        True,
        "answered",
        2,
    )
    assert (episode.tool_calls, episode.tool_errors, episode.dialects) == (
        1,
        0,
        {"pythonic": 1, "none": 1},
    )
    assert episode.reward_parts == {"solved": 1.0, "calls": 1.0}
    assert episode.state_diff["extra"] == []
    assert episode.start_hash
    assert episode.seconds["env"] > 0


def test_a_record_survives_its_json_line(world):
    episode = play(world.env(), OraclePolicy("pythonic"), seed=3, task="test/reprice/1")
    assert Episode.from_json(episode.to_json()) == episode
    assert "\n" not in episode.to_json()
    assert json.loads(episode.to_json())["messages"][1]["role"] == "user"


class CutPolicy(ScriptedPolicy):
    """Gives answers (text, stop reason)."""

    def __init__(self, *answers):
        super().__init__([])
        self.answers = answers

    def open(self, messages, tools, *, seed, task=None):
        dialogue = super().open(messages, tools, seed=seed, task=task)
        replies = [Completion(text, stop_reason=stop) for text, stop in self.answers]
        dialogue.reply = lambda: replies.pop(0)
        return dialogue


CALL = "tell(text='a')"


@pytest.mark.parametrize(
    ("answers", "stop", "is_clipped"),
    [
        ([("I thi", "length")], "length", True),
        ([(CALL, "stop"), ("I thi", "length")], "length", True),
        ([("", "length")], "length", True),
        # An answer in the middle was cut, and the model went on.
        ([(CALL + " and th", "length"), ("Done.", "stop")], "answered", False),
        ([(CALL, "length"), ("I thi", "length")], "length", True),
        # The environment ended the episode for another reason than the cut text.
        ([("close()", "length")], "closed", True),
        ([(CALL, "stop")] * 3 + [(CALL, "length")], "max_turns", True),
        ([("Done.", "stop")], "answered", False),
    ],
)
def test_an_answer_that_a_token_limit_cuts_is_the_reason_of_the_end(
    world, answers, stop, is_clipped
):
    episode = play(world.env(), CutPolicy(*answers), seed=0, task="test/reprice/0")
    assert episode.stop_reason == stop
    assert episode.turn_stops == tuple(reason for _, reason in answers)
    assert episode.is_clipped is is_clipped
    assert Episode.from_json(episode.to_json()) == episode


def test_a_cut_answer_is_graded_like_any_other(world):
    cut = play(world.env(), CutPolicy(("I thi", "length")), seed=0, task="test/reprice/0")
    whole = play(world.env(), CutPolicy(("I thi", "stop")), seed=0, task="test/reprice/0")
    assert (cut.reward, cut.success, cut.terminated) == (whole.reward, False, True)


def test_a_record_of_another_version_is_refused(world):
    plain = play(world.env(), NoopPolicy(), seed=3, task="test/reprice/1").to_dict()
    assert next(iter(plain)) == "schema_version"
    assert Episode.from_dict(plain | {"step": 3, "phase": "grpo"}).to_dict() == plain
    with pytest.raises(ValueError, match="schema version 0, and this version of envgym reads 1"):
        Episode.from_dict(plain | {"schema_version": 0})


def test_a_failure_of_a_tool_is_counted_and_named_and_the_episode_goes_on(world, caplog):
    answers = ("crash()", "crash()", "price(item='I99')", "Done.")
    episode = play(world.env(), scripted(*answers), seed=0, task="test/reprice/0")
    assert (episode.reward, episode.stop_reason) == (0.0, "answered")
    assert (episode.tool_calls, episode.tool_errors, episode.tool_failures) == (3, 1, 2)
    assert episode.turn_invalid_calls == (0, 0, 1, 0)
    (fault,) = episode.tool_faults
    assert fault.startswith("tools.py:")
    assert fault.endswith(": ZeroDivisionError: division by zero")
    assert Episode.from_json(episode.to_json()) == episode
    assert caplog.text.count(fault) == 1
    assert f"  a tool failed: {fault}" in episode_lines(episode)


def test_a_grader_that_raises_voids_the_episode(tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def broken(evidence):\n    raise RuntimeError('grader down')\n"
    )
    spec = shop(tmp_path, "reward.bad={from: rewards.py:broken}")
    world = ToolWorld(spec)
    episode = play(world.env(), NoopPolicy(), seed=0, task="test/reprice/0")
    world.close()
    assert (episode.failure.kind, episode.failure.stage) == ("reward_raised", "score")


def test_a_policy_that_fails_voids_the_episode(world):
    def fail(task, turn):
        raise WorldFailure("policy_failed", "server gone", stage="policy")

    assert (
        play(world.env(), ScriptedPolicy(fail), seed=0, task="test/reprice/0").failure.stage
        == "policy"
    )


def test_an_episode_over_its_time_is_truncated_and_its_state_is_graded(tmp_path):
    world = ToolWorld(shop(tmp_path, "episode.timeout_seconds=0.4"))
    solved = play(world.env(), ScriptedPolicy(solve_then_wait), seed=0, task="test/reprice/0")
    assert (solved.stop_reason, solved.truncated, solved.terminated) == ("timeout", True, False)
    assert (solved.reward, solved.success) == (1.0, True)
    lost = play(world.env(), ScriptedPolicy(wait), seed=0, task="test/reprice/0")
    assert (lost.stop_reason, lost.reward, lost.success) == ("timeout", 0.0, False)
    assert 0 <= lost.seconds["lost"] <= lost.seconds["env"]
    world.close()


def test_a_void_episode_is_played_once_more_and_says_how_the_first_attempt_broke(tmp_path):
    (tmp_path / "rewards.py").write_text(BROKEN_GRADERS)
    world = ToolWorld(shop(tmp_path, "reward.bad={from: rewards.py:breaks_once}"))
    (episode,) = play_many(world.env, scripted("Done."), [Request("test/reprice/0", 0)])
    world.close()
    assert not episode.is_void
    assert [(f.kind, f.stage) for f in episode.failures] == [("reward_raised", "score")]
    assert Episode.from_json(episode.to_json()) == episode
    assert "  second attempt; the first was void: reward_raised in score" in episode_lines(episode)


def test_one_failure_costs_no_other_episode_and_order_is_kept(tmp_path):
    (tmp_path / "rewards.py").write_text(BROKEN_GRADERS)
    world = ToolWorld(shop(tmp_path, "reward.bad={from: rewards.py:breaks_at_2}"))

    def act(task, turn):
        return [
            "set_price(item={item!r}, price={price})".format(**task.oracle[0].arguments),
            "Done.",
        ][turn]

    requests = [Request(f"train/reprice/{n}", n) for n in range(20)]
    seen = []
    episodes = play_many(
        world.env, ScriptedPolicy(act), requests, workers=8, on_episode=seen.append
    )
    assert [e.task_id for e in episodes] == [r.task for r in requests]
    assert [e.task_id for e in episodes if e.is_void] == ["train/reprice/2"]
    assert all(e.reward == 1.0 for e in episodes if not e.is_void)
    assert len(seen) == 20
    world.close()


def test_a_request_may_ask_for_a_shorter_horizon(world):
    requests = [Request("train/reprice/0", 0), Request("train/reprice/0", 0, max_turns=1)]
    whole, cut = play_many(world.env, ScriptedPolicy(["tell(text='a')", "Done."]), requests)
    assert (whole.turns, whole.stop_reason, whole.success) == (2, "answered", False)
    assert (cut.turns, cut.stop_reason, cut.success, cut.truncated) == (1, "horizon", None, True)


def test_a_users_mistake_is_raised_not_voided(world):
    with pytest.raises(SpecError):
        play_many(world.env, NoopPolicy(), [Request("test/nothing/0", 0)])


# --- foreign Gymnasium environments ---

FOREIGN = """\
id: test/echo-v0
gym: {gym}
tasks: {{val: 3, test: 4}}
"""


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "echo.yaml"
    path.write_text(FOREIGN.format(gym="tests.fakes.echo_env:Echo-v0"))
    return ForeignWorld(load_spec(path))


def test_a_foreign_environment_plays_by_seeds_and_reports_success(foreign):
    word = foreign.env().reset(options={"task": "test/seed/1"})[0].split()[-1]
    episode = play(foreign.env(), scripted(word), seed=0, task="test/seed/1")
    assert (episode.reward, episode.success, episode.task_id, episode.stop_reason) == (
        1.0,
        True,
        "test/seed/1",
        "terminated",
    )
    assert [m.role for m in episode.messages] == ["user", "assistant"]
    assert (
        play(foreign.env(), scripted("wrong", "wrong"), seed=0, task="test/seed/1").success is False
    )


def test_a_cut_answer_that_ends_a_foreign_episode_is_recorded_as_cut(foreign):
    word = foreign.env().reset(options={"task": "test/seed/1"})[0].split()[-1]
    right = play(foreign.env(), CutPolicy((word, "length")), seed=0, task="test/seed/1")
    assert (right.stop_reason, right.reward, right.is_clipped) == ("length", 1.0, True)
    twice = CutPolicy(("no", "stop"), ("no", "length"))  # the environment's own limit of turns
    late = play(foreign.env(), twice, seed=0, task="test/seed/1")
    assert (late.stop_reason, late.truncated, late.is_clipped) == ("truncated", True, True)


def test_a_foreign_environment_is_cut_at_a_horizon_too(foreign):
    cut, last = (
        play(foreign.env(), scripted("a", "b"), seed=0, task="test/seed/1", max_turns=turns)
        for turns in (1, 2)
    )
    assert (cut.turns, cut.truncated, cut.terminated, cut.stop_reason, cut.success) == (
        1,
        True,
        False,
        "horizon",
        None,
    )
    assert (last.turns, last.stop_reason, last.success) == (
        2,
        "truncated",
        False,
    )  # the environment's own limit is lower


def test_foreign_tasks_are_named_and_split(foreign):
    assert foreign.tasks.ids("test") == [f"test/seed/{n}" for n in range(4)]
    seeds = {
        foreign.tasks.seed_of(task)
        for split in ("train", "val", "test")
        for task in foreign.tasks.ids(split, count=50)
    }
    assert len(seeds) == 150
    with pytest.raises(SpecError, match="must look like split/seed/index"):
        foreign.tasks.seed_of("test/x/1")


def test_a_foreign_environment_that_is_not_there_or_not_text_is_told(tmp_path):
    for gym_id, message in (
        ("no_such_module:X-v0", "cannot make 'no_such_module:X-v0'"),
        ("CartPole-v1", "observations must be text"),
    ):
        path = tmp_path / "foreign.yaml"
        path.write_text(FOREIGN.format(gym=gym_id))
        with pytest.raises((SpecError, UsageError), match=message):
            ForeignWorld(load_spec(path)).env().reset(seed=0)
