"""Turn rewards are paid at their turns, the rest at the end; the terms add up to the total."""

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError, UsageError
from envgym.playing import Request, play, play_many
from envgym.policies import Completion
from envgym.policies.scripted import ScriptedPolicy
from tests.fakes.shop_env import shop

PARTS = """
def fine(evidence):
    return float(all(record.ok for record in evidence.calls))

def step(evidence):
    return evidence.step / 100

def together(task, episodes):
    return [None for _ in episodes]
together.of_group = True

def breaks_on_the_second(evidence):
    if evidence.assistant_messages and "I9" in evidence.assistant_messages[-1]:
        raise RuntimeError("grader down")
    return 1.0
"""
LIKED = """
def liked(evidence):
    '''How it sounds.

    More.
    '''
    return 1.0
liked.grounded = False
"""
LOST = """
from envgym.errors import WorldFailure

def asks(evidence):
    raise WorldFailure('timeout', 'judge', stage='score')
"""
TASK = "test/reprice/0"


@pytest.fixture
def played(tmp_path):
    """Return a function that plays texts in the shop and gives (episode, oracle's call)."""
    (tmp_path / "parts.py").write_text(PARTS)
    worlds = []

    def play_with(*texts, settings=(), step=0, max_turns=None):
        world = ToolWorld(shop(tmp_path, *settings))
        worlds.append(world)
        task = world.tasks.task(TASK)
        call = task.oracle[0].arguments
        said = [
            text.replace("RIGHT", f"set_price(item='{call['item']}', price={call['price']})")
            for text in texts
        ]
        return play(
            world.env(), ScriptedPolicy(said), seed=0, task=TASK, step=step, max_turns=max_turns
        )

    yield play_with
    for world in worlds:
        world.close()


def contributions(episode):
    return {name: term.contribution for name, term in episode.reward_terms.items()}


def test_each_turn_is_paid_for_its_own_calls(played):
    fine = "reward.fine={from: parts.py:fine, per: turn, weight: 0.5, range: [-1, 1]}"
    episode = played("price(item='I9')", "RIGHT", "Done.", settings=[fine])
    assert episode.turn_rewards == (-0.5, 0.5, 1.5)  # refused; valid; valid (no call) and solved
    assert contributions(episode) == {"solved": 1.0, "calls": 0.0, "fine": 0.5}
    assert episode.reward == sum(episode.turn_rewards) == 1.5


def test_each_call_is_judged_by_itself(played):
    calls = "reward.ok={from: valid_calls, per: call, weight: 0.1}"
    episode = played(
        "[price(item='I0'), price(item='I9'), price(item='I1')]", "Done.", settings=[calls]
    )
    assert episode.turn_rewards == (pytest.approx(0.2), 0.0)
    assert episode.reward_terms["ok"].by_turn == (2.0, 0.0)


def test_a_potential_moves_credit_to_the_turn_that_earned_it_and_adds_nothing(played):
    progress = "reward.on_way={from: state_progress, per: potential}"
    episode = played("price(item='I0')", "RIGHT", "Done.", settings=[progress])
    assert episode.turn_rewards == (
        0.0,
        1.0,
        0.0,
    )  # the change adds 1; the end subtracts 1 and adds 1 for being solved
    assert (episode.reward, contributions(episode)["on_way"]) == (1.0, 0.0)
    assert episode.reward_parts["on_way"] == 1.0


def test_schedules_stand_at_the_training_step_and_parts_may_look_at_it(played):
    settings = [
        "reward.grows={from: parts.py:fine, weight: {0: 0.0, 100: 1.0}}",
        "reward.step={from: parts.py:step}",
    ]
    assert contributions(played("Done.", settings=settings)) == {
        "solved": 0.0,
        "calls": 0.0,
        "grows": 0.0,
        "step": 0.0,
    }
    assert contributions(played("Done.", settings=settings, step=25)) == {
        "solved": 0.0,
        "calls": 0.0,
        "grows": 0.25,
        "step": 0.25,
    }


def test_a_forbidden_write_is_never_better_than_failing(played):
    settings = [
        "reward.solved={from: state_match, range: [-3, 3]}",
        "reward.fine={from: parts.py:fine}",
    ]
    failed = played("Done.", settings=settings)
    forbidden = played("audit()", "Done.", settings=settings)
    assert failed.reward == -2.0  # not solved, but all its calls were valid
    assert forbidden.reward == -3.0
    assert contributions(forbidden) == {"solved": -3.0, "calls": 0.0, "fine": 1.0, "penalty": -1.0}
    assert forbidden.success is False


def test_a_forbidden_write_takes_back_what_turns_were_paid(played):
    episode = played("audit()", "Done.", settings=["reward.fine={from: parts.py:fine, per: turn}"])
    assert episode.turn_rewards == (1.0, -1.0)
    assert episode.reward == 0.0


class RunsOut(ScriptedPolicy):
    """Policy that answers once and then runs out of context."""

    def open(self, *arguments, **keywords):
        dialogue = super().open(*arguments, **keywords)
        replies = iter([dialogue.reply, lambda: Completion("", (), (), "context")])
        dialogue.reply = lambda: next(replies)()
        return dialogue


def test_running_out_of_room_is_no_way_to_escape_a_bad_score(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    settings = [
        "reward.solved={from: state_match, range: [-3, 3]}",
        "reward.fine={from: parts.py:fine, per: turn}",
    ]
    world = ToolWorld(shop(tmp_path, *settings))
    episode = play(world.env(), RunsOut(["price(item='I0')", "Done."]), seed=0, task=TASK)
    assert (episode.stop_reason, episode.reward, episode.turn_rewards) == ("context", -3.0, (-3.0,))
    assert contributions(episode) == {"solved": -3.0, "penalty": 0.0}
    world.close()


def test_a_part_of_groups_says_nothing_of_one_episode(played):
    episode = played("Done.", settings=["reward.vote={from: parts.py:together}"])
    assert episode.reward_parts["vote"] is None
    with pytest.raises(
        SpecError, match=r"reward.vote: compares whole episodes; it cannot be per turn"
    ):
        played("Done.", settings=["reward.vote={from: parts.py:together, per: turn}"])


def test_a_part_that_breaks_in_a_turn_voids_the_episode(played):
    broken = "reward.bad={from: parts.py:breaks_on_the_second, per: turn}"
    episode = played("price(item='I0')", "price(item='I9')", "Done.", settings=[broken])
    assert (episode.is_void, episode.failure.kind) == (True, "reward_raised")


def test_a_training_step_reaches_each_episode_of_many(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    world = ToolWorld(shop(tmp_path, "reward.step={from: parts.py:step}"))
    requests = [Request(TASK, 0, step=step) for step in (0, 50)]
    episodes = play_many(world.env, ScriptedPolicy(["Done."]), requests)
    assert [episode.reward for episode in episodes] == [0.0, 0.5]
    with pytest.raises(UsageError, match="step is -1"):
        world.env().reset(options={"task": TASK, "step": -1})
    world.close()


def test_a_part_declares_whether_it_is_an_opinion(tmp_path):
    (tmp_path / "parts.py").write_text(
        PARTS
        + "def liked(evidence):\n    '''How it sounds.\n\n    More.'''\nliked.grounded = False\n"
    )
    world = ToolWorld(
        shop(
            tmp_path,
            "reward.liked={from: parts.py:liked}",
            "reward.sure={from: parts.py:fine, grounded: false}",
        )
    )
    parts = world.rubric.parts
    assert [parts[name].is_grounded for name in ("solved", "liked", "sure")] == [True, False, False]
    assert parts["liked"].summary == "How it sounds."
    world.close()


def test_the_worlds_failure_inside_a_part_keeps_its_own_kind(tmp_path):
    text = (
        "from envgym.errors import WorldFailure\n\ndef asks(evidence):\n"
        "    raise WorldFailure('timeout', 'judge', stage='score')\n"
    )
    (tmp_path / "parts.py").write_text(text)
    world = ToolWorld(shop(tmp_path, "reward.asks={from: parts.py:asks}"))
    episode = play(world.env(), ScriptedPolicy(["Done."]), seed=0, task=TASK)
    assert episode.failure is not None
    assert episode.failure.kind == "timeout"
    world.close()
