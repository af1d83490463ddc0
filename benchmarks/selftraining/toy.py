"""Toy for self-training: small tasks, a linear softmax policy, and GRPO steps on votes.

A task is a row of hints, one for each answer; the right answer's hint is raised, much for an easy
task and little for a hard one. The policy starts with a weak trust in the hints. Its majority is
right more often than a sample, so votes improve it first. It also has a bias shared by all tasks,
like the habits of a language model. If all samples follow the bias, agreement is highest and a vote
cannot detect it. The size of the bias was chosen so that training on votes alone ends there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envgym.rewards.scoring.answer_normalization import extract_boxed
from envgym.rewards.scoring.answer_statistics import modal_share
from envgym.rewards.scoring.hacking_signals import HackingDetector, Signal, StepRecord
from envgym.rewards.scoring.majority_vote import (
    Vote,
    choose_labelled,
    keep_most_agreed,
    label_rewards,
    vote,
    vote_rewards,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ANSWERS = 10
TASKS = 600
HELD_OUT = 1000
HELD_OUT_SAMPLE = 200
TASKS_PER_STEP = 32
GROUP = 8
LEARNING_RATE = 0.15
TRUST = 0.6
UNEVENNESS = 0.1
BIAS = 3.0
"""Trust of the untrained policy in the hints, its spread, and the input of the bias."""
RAISED = 5.0
"""Largest amount by which the right answer's hint is raised, in standard deviations."""
MEASURE_EVERY = 5


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings of one kind of run."""

    name: str
    true_labels: float = 0.0
    """Fraction of the training tasks that are rewarded by their true label. The others vote."""
    easiest: float = 1.0
    """Fraction of the training tasks that is used, by certainty of the untrained policy."""
    kept: float = 1.0
    """Fraction of each step's groups that is trained on, labelled groups and high agreement first.

    More groups are played to make up for the rest.
    """
    labelled_groups: float | None = None
    """Fraction of each step's groups that have labelled tasks.

    By default, all tasks are drawn alike.
    """


@dataclass(slots=True)
class Run:
    """Results of one run."""

    accuracy: list[float] = field(default_factory=list)
    """Probability of the right answer on held-out tasks after each step. Computed, not sampled."""
    reward: float = 0.0
    """Mean training reward of the last step."""
    modal: float = 0.0
    """Fraction of the most frequent answer at the last step."""
    signals: list[Signal] = field(default_factory=list)


class Tasks:
    """Hints, shape (N, K), and right answers, shape (N,)."""

    def __init__(self, count: int, rng: np.random.Generator):
        self.truth = rng.integers(0, ANSWERS, count)
        self.hints = rng.normal(size=(count, ANSWERS))
        self.hints[np.arange(count), self.truth] += rng.uniform(0, RAISED, size=count)
        self.inputs = np.hstack([self.hints, np.full((count, 1), BIAS)])  # (N, K + 1)


class Policy:
    """Policy softmax(hints W + b), trained by plain gradient ascent."""

    def __init__(self, rng: np.random.Generator):
        trust = TRUST * np.eye(ANSWERS) + UNEVENNESS * rng.normal(
            size=(ANSWERS, ANSWERS)
        ) / np.sqrt(ANSWERS)
        self.weights = np.vstack([trust, np.zeros((1, ANSWERS))])  # (K + 1, K), with the bias last.

    def chances(self, inputs: Floats) -> Floats:
        """Return the probability of each answer: inputs (N, K + 1), result (N, K)."""
        logits = inputs @ self.weights
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def learn(self, inputs: Floats, sampled: Integers, advantages: Floats) -> None:
        """Make a policy gradient step.

        Args:
            inputs: Hints and bias input, shape (P, K + 1).
            sampled: Sampled answers, shape (P, G).
            advantages: Advantages, shape (P, G).
        """
        pull = (np.eye(ANSWERS)[sampled] * advantages[:, :, None]).sum(axis=1)  # (P, K)
        pull -= advantages.sum(axis=1, keepdims=True) * self.chances(inputs)
        self.weights += LEARNING_RATE * inputs.T @ pull / sampled.size


def group_advantages(rewards: Floats) -> Floats:
    """Return GRPO advantages of rewards, both (P, G). Source: arXiv 2402.03300, sec. 4.1.2."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, keepdims=True) + 1e-4)


def sample(chances: Floats, count: int, rng: np.random.Generator) -> Integers:
    """Sample `count` answers per row: probabilities (N, K), result (N, count)."""
    steps = chances.cumsum(axis=1)[:, None, :]  # (N, 1, K)
    return (rng.random((len(chances), count, 1)) > steps).sum(axis=2).clip(0, ANSWERS - 1)


def train(setting: Setting, *, seed: int, steps: int, watch: HackingDetector | None = None) -> Run:
    """Train one run from the start. Return its results and all signals of its watch."""
    rng = np.random.default_rng(seed)
    watch = watch or HackingDetector()
    run = Run()
    policy = Policy(rng)
    tasks = Tasks(TASKS, rng)
    held_out = Tasks(HELD_OUT, rng)
    labelled = choose_labelled(map(str, range(TASKS)), share=setting.true_labels, seed=seed)
    pool = _easiest(policy, tasks, setting.easiest)
    for step in range(steps):
        drawn = _drawn(pool, labelled, setting, rng)
        chances = policy.chances(tasks.inputs[drawn])
        sampled = sample(chances, GROUP, rng)
        texts = [[rf"\boxed{{{answer}}}" for answer in group] for group in sampled]
        true = {
            at: str(tasks.truth[task]) for at, task in enumerate(drawn) if str(task) in labelled
        }
        learned = (
            keep_most_agreed(_votes(texts), setting.kept, labelled=true)
            if setting.kept < 1
            else list(range(len(drawn)))
        )
        rewards = np.array([_rewards(texts[at], true.get(at)) for at in learned])
        policy.learn(tasks.inputs[drawn[learned]], sampled[learned], group_advantages(rewards))
        run.accuracy.append(_accuracy(policy, held_out))
        run.reward, run.modal = (
            float(rewards.mean()),
            modal_share([[str(a) for a in group] for group in sampled]) or 0.0,
        )
        run.signals += watch.observe(
            StepRecord(
                step,
                reward=run.reward,
                modal_share=run.modal,
                entropy=_entropy(chances),
                parts={"majority_vote": run.reward},
                truth=_measured(policy, held_out, rng) if step % MEASURE_EVERY == 0 else None,
                truth_tasks=HELD_OUT_SAMPLE,
            )
        )
    return run


def _drawn(
    pool: Integers, labelled: frozenset[str], setting: Setting, rng: np.random.Generator
) -> Integers:
    count = round(TASKS_PER_STEP / setting.kept)
    share = setting.labelled_groups
    if share is None:
        return rng.choice(pool, count, replace=False)
    is_labelled = np.array([str(task) in labelled for task in pool])
    wanted = round(share * count)
    return np.concatenate(
        [
            rng.choice(pool[is_labelled], wanted),
            rng.choice(pool[~is_labelled], count - wanted, replace=False),
        ]
    )


def _easiest(policy: Policy, tasks: Tasks, share: float) -> Integers:
    sureness = policy.chances(tasks.inputs).max(axis=1)
    return np.argsort(-sureness, kind="stable")[: round(share * TASKS)]


def _votes(groups: Iterable[list[str]]) -> list[Vote]:
    return [vote([extract_boxed(text) for text in texts]) for texts in groups]


def _rewards(texts: list[str], truth: str | None) -> list[float]:
    if truth is not None:
        return label_rewards(texts, truth)
    # Every text has a boxed answer, so every group has a label.
    return [reward or 0.0 for reward in vote_rewards(texts)]


def _accuracy(policy: Policy, tasks: Tasks) -> float:
    return float(policy.chances(tasks.inputs)[np.arange(len(tasks.truth)), tasks.truth].mean())


def _measured(policy: Policy, tasks: Tasks, rng: np.random.Generator) -> float:
    """Measure accuracy as a run would: one sampled answer to each of some held-out tasks."""
    chosen = rng.choice(len(tasks.truth), HELD_OUT_SAMPLE, replace=False)
    answers = sample(policy.chances(tasks.inputs[chosen]), 1, rng)[:, 0]
    return float((answers == tasks.truth[chosen]).mean())


def _entropy(chances: Floats) -> float:
    return float(-(chances * np.log(chances + 1e-12)).sum(axis=1).mean())
