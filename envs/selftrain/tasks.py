"""Three generators of reasoning-gym, each with four levels; every task has one answer, to be given in a box.

Splits share no question: the hash of a question's own text says which split it belongs to, and a template draws until one of its
split comes. So a training task can never be a held-out one, however many are drawn.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from envgym import SPLITS, Draw, PrerequisiteError, Task, Template, stable_seed

FIFTHS = ("train", "train", "train", "val", "test")
ATTEMPTS = 100
"""Questions drawn for one of the right split: a fifth of them are."""
MISLABELLED = ("niece", "nephew", "mother-in-law", "father-in-law")
"""For these reasoning-gym 0.1.25 gives the relation, or the sex, of the other person than the one it asks about."""


def pose(draw: Draw, *, generator: str, reading: str, **difficulty: Any) -> Task:
    """A question of the draw's split. Raises LookupError where none comes, PrerequisiteError without reasoning-gym."""
    for _ in range(ATTEMPTS):
        item = _generate(generator, draw.rng.randrange(2**31), difficulty)
        if split_of(item["question"]) == draw.split and item["answer"] not in MISLABELLED:
            return draw.task(
                prompt=item["question"],
                final=rf"\boxed{{{item['answer']}}}",
                tools=(),
                answer=item["answer"],
                reading=reading,
            )
    raise LookupError(f"no question of split '{draw.split}' in {ATTEMPTS} draws of {generator}")


def split_of(question: str) -> str:
    return FIFTHS[stable_seed("split", question) % len(FIFTHS)]


def _generate(generator: str, seed: int, difficulty: dict[str, Any]) -> dict[str, Any]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise PrerequisiteError(
            "envs/selftrain.yaml needs reasoning-gym: pip install 'envgym[puzzles]'"
        ) from error
    return reasoning_gym.create_dataset(generator, seed=seed, size=1, **difficulty)[0]


def rung(
    name: str, level: str, generator: str, *, reading: str = "value", **difficulty: Any
) -> Template:
    """One generator at one level."""
    return Template(
        name, level, SPLITS, partial(pose, generator=generator, reading=reading, **difficulty)
    )


# How deep an expression nests.
bits_0 = rung("bits_0", "L0", "bitwise_arithmetic", difficulty=1)
bits_1 = rung("bits_1", "L1", "bitwise_arithmetic", difficulty=2)
bits_2 = rung("bits_2", "L2", "bitwise_arithmetic", difficulty=3)
bits_3 = rung("bits_3", "L3", "bitwise_arithmetic", difficulty=4)

# How many people a family has.
family_0 = rung("family_0", "L0", "family_relationships", min_family_size=3, max_family_size=4)
family_1 = rung("family_1", "L1", "family_relationships", min_family_size=5, max_family_size=6)
family_2 = rung("family_2", "L2", "family_relationships", min_family_size=7, max_family_size=9)
family_3 = rung("family_3", "L3", "family_relationships", min_family_size=10, max_family_size=12)

# How many people there are, and how deep their statements nest.
knights_0 = rung(
    "knights_0",
    "L0",
    "knights_knaves",
    reading="claims",
    n_people=2,
    depth_constraint=2,
    width_constraint=2,
)
knights_1 = rung(
    "knights_1",
    "L1",
    "knights_knaves",
    reading="claims",
    n_people=3,
    depth_constraint=2,
    width_constraint=2,
)
knights_2 = rung(
    "knights_2",
    "L2",
    "knights_knaves",
    reading="claims",
    n_people=4,
    depth_constraint=2,
    width_constraint=2,
)
knights_3 = rung(
    "knights_3",
    "L3",
    "knights_knaves",
    reading="claims",
    n_people=5,
    depth_constraint=3,
    width_constraint=3,
)
