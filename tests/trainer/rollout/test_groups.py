"""A group is G episodes of one task from one state.

A group without reward variance is replaced, counted and kept in the record.
"""

import dataclasses
import math
import random
from collections import Counter

import pytest

from envgym.episode import Episode, Failure
from envgym.messages import Message
from envgym.playing import Request
from envgym.policies import TokenTrace
from envgym_trainer.rollout.groups import play_groups
from envgym_trainer.rollout.rollout_batch import (
    RolloutBatch,
    has_reward_variance,
    has_same_start,
    sampled_entropy,
)
from envgym_trainer.run.folder import RunFolder

LOST = Failure("sandbox_lost", "call", "gone")


class Counting:
    """Draws that number their tasks: t0, t1, ..."""

    def __init__(self):
        self.count = 0

    def requests(self, tasks, episodes):
        first = self.count
        self.count = self.count + tasks
        return [
            Request(f"t{first + n}", 1000 * (first + n) + g)
            for n in range(tasks)
            for g in range(episodes)
        ]


def episode(task="t0", reward: float | None = 0.0, seed=0, **fields):
    trace = TokenTrace((1, 2), (False, True), (0.0, -0.5))
    messages = (Message("system", "s"), Message("user", task), Message("assistant", f"a{seed}"))
    given = {
        "success": None if reward is None else reward >= 1,
        "failure": LOST if reward is None else None,
    }
    return Episode(
        "e",
        task,
        "train",
        "L0",
        "t",
        seed,
        messages,
        trace,
        reward,
        start_hash=f"h-{task}",
        **(given | fields),
    )


class Scripted:
    """Play requests with scripted rewards by task, repeated over the group's members.

    A request for a task in `void` is void at its first attempt.
    """

    def __init__(self, rewards, *, void=(), always_void=()):
        self.rewards, self.void, self.always_void = rewards, set(void), set(always_void)
        self.calls: list[list[Request]] = []
        self.attempts: Counter[str] = Counter()

    def __call__(self, requests):
        self.calls.append(list(requests))
        return [self._play(request) for request in requests]

    def _play(self, request):
        n = self.attempts[request.task]
        self.attempts[request.task] += 1
        values = self.rewards.get(request.task, [0.0, 1.0])
        if (request.task, n) in self.void or request.task in self.always_void:
            return episode(request.task, None, request.seed)
        return episode(request.task, values[n % len(values)], request.seed)


def rewards_of(groups):
    return [[e.reward for e in group] for group in groups]


def tasks_of(groups):
    return [{e.task_id for e in group} for group in groups]


AGREE = [1.0]


def test_without_a_budget_what_agrees_stays():
    play = Scripted({"t0": AGREE})
    played = play_groups(play, Counting(), tasks=2, size=2)
    assert rewards_of(played.groups) == [[1.0, 1.0], [0.0, 1.0]]
    assert (played.discarded, len(play.calls)) == ([], 1)


def test_a_group_that_agrees_makes_room_for_a_fresh_one_with_a_lesson():
    played = play_groups(Scripted({"t1": AGREE}), Counting(), tasks=3, size=2, max_extra=5)
    assert tasks_of(played.groups) == [{"t0"}, {"t3"}, {"t2"}]
    assert tasks_of(played.discarded) == [{"t1"}]
    assert played.metrics()["rollout/extra_groups"] == 1
    assert played.metrics()["rollout/discarded_episodes"] == 2


def test_a_fresh_group_that_agrees_too_is_thrown_and_another_is_played():
    played = play_groups(
        Scripted({"t0": AGREE, "t2": [0.0]}), Counting(), tasks=2, size=2, max_extra=5
    )
    assert tasks_of(played.groups) == [{"t3"}, {"t1"}]
    assert tasks_of(played.discarded) == [{"t2"}, {"t0"}]


@pytest.mark.parametrize("cap", [0, 1, 2, 3, 7])
def test_the_cap_is_kept_and_every_step_has_its_number_of_groups(cap):
    play = Scripted({f"t{n}": AGREE for n in range(99)})  # no group has reward variance
    played = play_groups(play, Counting(), tasks=3, size=4, max_extra=cap)
    assert sum(len(requests) for requests in play.calls) == (3 + cap) * 4
    assert [len(group) for group in played.groups] == [4, 4, 4]
    assert len(played.discarded) == played.metrics()["rollout/extra_groups"] == cap


def test_no_more_fresh_groups_are_played_at_once_than_are_missing():
    play = Scripted({"t0": AGREE, "t1": AGREE, "t3": AGREE})
    play_groups(play, Counting(), tasks=3, size=2, max_extra=9)
    assert [len(requests) // 2 for requests in play.calls] == [3, 2, 1]


def test_the_numbers_of_a_step_are_about_all_that_was_played():
    played = play_groups(Scripted({"t0": AGREE}), Counting(), tasks=1, size=2, max_extra=1)
    metrics = played.metrics()
    assert (metrics["success"], metrics["episode/n"], metrics["group/frac_all_one"]) == (
        0.75,
        4,
        0.5,
    )
    assert metrics["group/with_variance"] == 1


def test_a_void_member_is_played_once_more_with_a_seed_of_its_own():
    play = Scripted({}, void=[("t1", 0)])
    played = play_groups(play, Counting(), tasks=2, size=2)
    [again] = play.calls[1]
    assert again.task == "t1"
    assert again.seed not in {request.seed for request in play.calls[0]}
    assert [e.is_void for group in played.groups for e in group] == [False] * 4
    assert tasks_of(played.groups) == [{"t0"}, {"t1"}]
    assert [e.failure for e in played.retried] == [LOST]


def test_what_stays_void_leaves_a_smaller_group_and_is_not_played_for_ever():
    play = Scripted({"t0": [1.0, 0.0, 1.0]}, void=[("t0", 3), ("t0", 4)])
    played = play_groups(play, Counting(), tasks=1, size=4)
    assert [e.is_void for e in played.groups[0]] == [False, False, False, True]
    assert len(play.calls) == 2
    assert played.trainable_groups == played.groups


def test_fewer_than_two_valid_members_are_no_lesson_and_are_counted():
    play = Scripted({}, always_void=["t0"], void=[("t1", n) for n in (1, 2, 3, 4)])
    played = play_groups(play, Counting(), tasks=3, size=3)
    assert [sum(not e.is_void for e in group) for group in played.groups] == [0, 1, 3]
    assert tasks_of(played.trainable_groups) == [{"t2"}]
    metrics = played.metrics()
    assert (
        metrics["group/too_few_valid"],
        metrics["group/with_variance"],
        metrics["group/retried_members"],
    ) == (2, 1, 5)


def test_failures_of_members_that_were_replaced_are_counted():
    metrics = play_groups(
        Scripted({}, void=[("t0", 0), ("t1", 1)]), Counting(), tasks=2, size=2
    ).metrics()
    assert (
        metrics["failures/sandbox_lost"],
        metrics["failures/stage/call"],
        metrics["episode/void"],
    ) == (2, 2, 0)


def test_members_of_two_tasks_or_of_two_starts_are_no_group():
    alike = [episode(reward=0.0), episode(reward=1.0)]
    assert has_reward_variance(alike)
    for change in (
        {"task_id": "t9"},
        {"start_hash": "h-other"},
        {"messages": (Message("user", "something else"), Message("assistant", "a"))},
    ):
        mixed = [alike[0], dataclasses.replace(alike[1], **change)]
        played = RolloutBatch([mixed, alike])
        assert not has_same_start(mixed)
        assert not has_reward_variance(mixed)
        assert played.trainable_groups == [alike]
        assert played.metrics()["group/different_starts"] == 1


def test_rewards_that_differ_by_the_noise_of_floats_agree():
    assert not has_reward_variance([episode(reward=0.3), episode(reward=0.1 + 0.2)])
    assert has_reward_variance([episode(reward=0.3), episode(reward=0.31)])


def test_what_was_thrown_away_is_written_down_and_marked(tmp_path):
    folder = RunFolder.create(tmp_path, "r")
    play_groups(
        Scripted({"t0": AGREE}, void=[("t1", 0)]), Counting(), tasks=2, size=2, max_extra=1
    ).write(folder, 7)
    lines = [
        (line["step"], line["phase"], line["task_id"], line.get("excluded"))
        for line in _lines(folder)
    ]
    assert Counter(lines) == Counter(
        {
            (7, "grpo", "t2", None): 2,
            (7, "grpo", "t1", None): 2,
            (7, "grpo", "t0", "no_variance"): 2,
            (7, "grpo", "t1", "retried"): 1,
        }
    )
    assert len(list(folder.episodes())) == 7


def _lines(folder):
    from envgym_trainer.run.records import read_lines

    return list(read_lines(folder.episodes_file))


def with_logprobs(*logprobs, mask=None, failure=None):
    """Return an episode of a prompt token and sampled tokens with these logprobs."""
    mask = (False, *(True for _ in logprobs)) if mask is None else mask
    trace = TokenTrace(tuple(range(len(mask))), mask, (0.0, *logprobs))
    reward = None if failure else 1.0
    return Episode("e", "t0", "train", "", "t", 0, (), trace, reward, failure=failure)


@pytest.mark.parametrize(
    ("episodes", "entropy"),
    [
        ([with_logprobs(-1.0, -3.0)], 2.0),
        ([with_logprobs(-1.0), with_logprobs(-2.0, -3.0)], 2.0),  # every token counts once
        ([with_logprobs(-1.0, -9.0, mask=(False, True, False))], 1.0),  # an observation
        ([with_logprobs(-1.0), with_logprobs(-9.0, failure=LOST)], 1.0),
        ([with_logprobs(-1.0, float("-inf"))], 1.0),
        ([with_logprobs(float("nan"))], None),
        ([with_logprobs(-5.0, failure=LOST)], None),
        ([dataclasses.replace(with_logprobs(), tokens=None)], None),
        ([], None),
    ],
)
def test_the_entropy_of_a_step_without_an_update_is_estimated_from_its_samples(episodes, entropy):
    assert sampled_entropy(episodes) == ({} if entropy is None else {"entropy": entropy})
    metrics = RolloutBatch(groups=[episodes]).metrics()
    assert metrics.get("entropy") == entropy


def test_the_estimate_of_the_entropy_is_unbiased():
    rng = random.Random(0)
    chances = [0.5, 0.25, 0.125, 0.125]
    logprobs = [math.log(rng.choices(chances, chances)[0]) for _ in range(20_000)]
    (entropy,) = sampled_entropy([with_logprobs(*logprobs)]).values()
    assert entropy == pytest.approx(1.75 * math.log(2), rel=0.01)
