"""Three generators of reasoning-gym with four levels each; every task has one boxed answer.

The hash of a question's text determines its split, and a template draws until a question of its
split occurs. A training task can therefore never equal a held-out one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from envgym import SPLITS, Draw, PrerequisiteError, Task, Template, stable_seed

FIFTHS = ("train", "train", "train", "val", "test")
ATTEMPTS = 100
"""Maximum number of draws for a question of the right split; at least a fifth of them are."""
MISLABELLED = ("niece", "nephew", "mother-in-law", "father-in-law")
"""Relations that reasoning-gym 0.1.25 answers for the wrong person or sex."""


def pose(draw: Draw, *, generator: str, reading: str, **difficulty: Any) -> Task:
    """Draw a question of the task's split.

    Raises:
        LookupError: If no question of this split occurs.
        PrerequisiteError: If reasoning-gym is not installed.
    """
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
    """Return the template of one generator at one level."""
    return Template(
        name, level, SPLITS, partial(pose, generator=generator, reading=reading, **difficulty)
    )


# Difficulty: nesting depth of the expression.
bits_0 = rung("bits_0", "L0", "bitwise_arithmetic", difficulty=1)
bits_1 = rung("bits_1", "L1", "bitwise_arithmetic", difficulty=2)
bits_2 = rung("bits_2", "L2", "bitwise_arithmetic", difficulty=3)
bits_3 = rung("bits_3", "L3", "bitwise_arithmetic", difficulty=4)

# Difficulty: size of the family.
family_0 = rung("family_0", "L0", "family_relationships", min_family_size=3, max_family_size=4)
family_1 = rung("family_1", "L1", "family_relationships", min_family_size=5, max_family_size=6)
family_2 = rung("family_2", "L2", "family_relationships", min_family_size=7, max_family_size=9)
family_3 = rung("family_3", "L3", "family_relationships", min_family_size=10, max_family_size=12)

# Difficulty: number of people, and nesting depth of their statements.
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
