"""Duplicate questions: about different things (L0), in other words (L1), in the same words (L2).

On level L2 both labels use the same words in different positions. Held out: the same event
described from both sides.
"""

from __future__ import annotations

from parts import CITIES, PEOPLE, THINGS, in_turn, labelled, several, two_wordings

from envgym import Draw, Task, template

LABELS = ("duplicate", "different")
ASKS = (
    "How do I {act}?",
    "What is the way to {act}?",
    "How can I {act}?",
    "Can you tell me how to {act}?",
    "What must I do to {act}?",
    "Which steps do I take to {act}?",
    "Is there a way to {act}?",
    "Who can help me to {act}?",
    "Would you explain how to {act}?",
    "What does it take to {act}?",
)
VERBS = (
    "repair/fix",
    "buy/purchase",
    "clean/wash",
    "lift/raise",
    "choose/pick",
    "throw away/dispose of",
    "move/shift",
    "rent/hire",
    "wrap/pack",
    "assemble/put together",
)
"""Pairs of synonymous verbs."""
CARRY = ("send", "take", "bring", "ship", "carry")
FORMS = ("{verb} a {what} from {a} to {b}", "{verb} a {what} to {b} from {a}")


@template(level="L0")
def same_words(draw: Draw) -> Task:
    """Pair two questions with the same verb and thing, or with another verb and another thing."""
    label = in_turn(draw, LABELS)
    (verb, _), (other_verb, _) = _two_verbs(draw)
    thing, other_thing = several(draw, THINGS, 2)
    again = (verb, thing) if label == "duplicate" else (other_verb, other_thing)
    return _pair(draw, f"{verb} the {thing}", "{} the {}".format(*again), label)


@template(level="L1")
def other_words(draw: Draw) -> Task:
    """Pair a verb with its synonym, with a verb of another meaning, or with another thing."""
    label = in_turn(draw, LABELS)
    verbs, others = _two_verbs(draw)
    verb, synonym = draw.rng.sample(verbs, 2)
    thing, other_thing = several(draw, THINGS, 2)
    unlike = draw.rng.choice(((draw.rng.choice(others), thing), (synonym, other_thing)))
    again = (synonym, thing) if label == "duplicate" else unlike
    return _pair(draw, f"{verb} the {thing}", "{} the {}".format(*again), label)


@template(level="L2")
def same_places(draw: Draw) -> Task:
    """Pair two trips: the same one in another word order, or the way back."""
    label = in_turn(draw, LABELS)
    a, b = several(draw, CITIES, 2)
    thing = several(draw, THINGS, 1)[0]
    verb = draw.wording(CARRY)
    again = (a, b) if label == "duplicate" else (b, a)
    one, other = (
        draw.rng.choice(FORMS).format(verb=verb, what=thing, a=start, b=end)
        for start, end in ((a, b), again)
    )
    return _pair(draw, one, other, label)


@template(level="L2", splits=("test",))
def both_sides(draw: Draw) -> Task:
    """Pair lending with borrowing between two people, in matching or in swapped roles."""
    label = in_turn(draw, LABELS)
    (one, other), thing = several(draw, PEOPLE, 2), several(draw, THINGS, 1)[0]
    giver, taker = (one, other) if label == "duplicate" else (other, one)
    lend = f"have {one} lend {other} a {thing}"
    borrow = f"have {taker} borrow a {thing} from {giver}"
    first, second = draw.rng.sample((lend, borrow), 2)
    return _pair(draw, first, second, label)


def _two_verbs(draw: Draw) -> list[list[str]]:
    """Draw two pairs of synonyms of the task's split."""
    return [verbs.split("/") for verbs in two_wordings(draw, VERBS)]


def _pair(draw: Draw, act: str, other_act: str, label: str) -> Task:
    one, other = two_wordings(draw, ASKS)
    return labelled(
        draw, f"First: {one.format(act=act)}\nSecond: {other.format(act=other_act)}", label, LABELS
    )
