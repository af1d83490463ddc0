"""Wording of requests: sentence frames with alternatives, optional openings and closings.

`[Set|Change] the phone of {who} to {value}.` stands for two sentences. `say` draws a frame of the
task's split, so that training never sees a frame of a held-out task. The vocabulary is shared.
"""

from __future__ import annotations

import random
import re

from envgym import Draw

OPENINGS = (
    "Hi.",
    "Hello.",
    "Hi there.",
    "Good morning.",
    "Morning!",
    "Hey.",
    "Quick one.",
    "Small change.",
    "One more thing.",
    "Just in.",
    "Fresh from the phone.",
    "Before I forget.",
    "From the sales desk.",
    "For today.",
    "Back from the fair.",
    "Short update.",
    "A favour.",
    "Something for the CRM.",
    "Update please.",
    "Next item.",
    "Good day.",
    "Hello again.",
    "News from the field.",
)
CLOSINGS = (
    "Thanks.",
    "Thanks!",
    "Thank you.",
    "Cheers.",
    "Please.",
    "Many thanks.",
    "That is all.",
    "Nothing else.",
    "Today, please.",
    "No rush.",
    "It is urgent.",
    "I appreciate it.",
    "Best regards.",
    "Have a good day.",
    "As agreed.",
    "As discussed.",
    "Much obliged.",
    "All the best.",
    "Done by noon, please.",
    "Kind regards.",
    "See you.",
)


def rotated(places: int, *phrasings: str) -> tuple[str, ...]:
    """Return the phrasings, rotated by `places`.

    The last phrasings are held out. Rotation makes each kind of request hold out different frames.
    A bare pattern may still occur in training with another kind of request.
    """
    return phrasings[places:] + phrasings[:places]


_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")


def say(draw: Draw, phrasings: tuple[str, ...], *, plain: bool = False, **slots: object) -> str:
    """Return one or two sentences for a task.

    Args:
        draw: Source of the split and of randomness.
        phrasings: At least ten sentence frames with `[a|b]` alternatives and `{slot}`s.
        plain: Omit opening and closing.
        slots: Values of the slots, inserted unchanged.
    """
    core = expand(draw.wording(phrasings), draw.rng).format(**slots)
    core = core[0].upper() + core[1:]
    parts = [core]
    if not plain and draw.rng.random() < 0.3:
        parts.insert(0, draw.wording(OPENINGS))
    if not plain and draw.rng.random() < 0.3:
        parts.append(draw.wording(CLOSINGS))
    return " ".join(parts)


def expand(phrasing: str, rng: random.Random) -> str:
    """Choose one of each group of alternatives."""
    return _ALTERNATIVES.sub(lambda found: rng.choice(found.group(1).split("|")), phrasing)


PHONE = rotated(
    0,
    "[Set|Change|Update] the phone of {who} to {value}.",
    "{who} has a new [phone|phone number|number]: {value}.",
    "[Please |]put {value} as the [phone|number] for {who}.",
    "The [phone|phone number] of {who} is now {value}.",
    "New [phone|number] for {who}: {value}.",
    "Phone of {who} [changed|has changed] to {value}.",
    "[Please |]save {value} as phone for {who}.",
    "[From now on|As of today] {who} is reached at {value}.",
    "{who} moved to another line, the phone is {value}.",
    "[You can|Please] correct the phone of {who}: {value}.",
    "The right [number|phone] for {who} is {value}, [change it|fix it].",
    "For {who}, [replace|overwrite] the phone with {value}.",
    "[Enter|Write] {value} in the phone field of {who}.",
    "[Can|Could] you [set|change] the phone of {who} to {value}?",
    "{value} is the new [phone|number] of {who}.",
    "We should call {who} on {value}, [update the phone|change the phone].",
)
EMAIL = (
    "[Set|Change|Update] the email of {who} to {value}.",
    "{who} has a new email: {value}",
    "[Please |]put {value} as the email for {who}.",
    "The email of {who} is now {value}",
    "New email for {who}: {value}",
    "[Can|Could] you change the email of {who} to {value} ?",
    "Write to {who} at {value} from now on, update the email.",
    "{value} is the new email of {who}.",
    "For {who}, replace the email with {value}",
    "Email of {who} changed to {value}",
)
TITLE = rotated(
    3,
    "[Set|Change|Update] the title of {who} to {value}.",
    "{who} is now {value}, [change the title|update the title].",
    "[Please |]put {value} as the [title|job title] for {who}.",
    "The title of {who} is now {value}.",
    "New [title|job title] for {who}: {value}.",
    "Title of {who} [changed|has changed] to {value}.",
    "{who} was promoted, the title is {value}.",
    "[As of today|From now on] the [title|job title] of {who} is {value}.",
    "[Please |]save {value} as title for {who}.",
    "{who} got a new job title: {value}.",
    "The right title for {who} is {value}, [change it|fix it].",
    "For {who}, [replace|overwrite] the title with {value}.",
    "[Enter|Write] {value} in the title field of {who}.",
    "[Can|Could] you [set|change] the title of {who} to {value}?",
    "{value} is the new title of {who}.",
    "{who} works as {value} now, [update the title|change the title].",
)
STAGE = rotated(
    6,
    "[Set|Change|Update] the stage of {what} to {value}.",
    "[Move|Put] {what} to [stage|the stage] {value}.",
    "{what} is now in stage {value}.",
    "New stage for {what}: {value}.",
    "The stage of {what} is now {value}.",
    "{what} [goes|moves] to {value}.",
    "[Please |]mark {what} as {value}.",
    "Stage of {what} [changed|has changed] to {value}.",
    "[Please |]save {value} as stage for {what}.",
    "[As of today|From now on] {what} stands at {value}.",
    "The right stage for {what} is {value}, [change it|fix it].",
    "For {what}, [replace|overwrite] the stage with {value}.",
    "[Can|Could] you [set|move] {what} to {value}?",
    "{what} should be in {value}, [update the stage|change the stage].",
    "Make {value} the stage of {what}.",
    "We have {what} at {value} now, [update it|change it].",
)
AMOUNT = rotated(
    9,
    "[Set|Change|Update] the amount of {what} to {value}.",
    "{what} is now worth {value}, [change the amount|update the amount].",
    "New amount for {what}: {value}.",
    "The amount of {what} is now {value}.",
    "[Please |]put {value} as the amount for {what}.",
    "Amount of {what} [changed|has changed] to {value}.",
    "[Please |]save {value} as amount for {what}.",
    "[As of today|From now on] the amount of {what} is {value}.",
    "We agreed on {value} dollars for {what}.",
    "The right amount for {what} is {value}, [change it|fix it].",
    "For {what}, [replace|overwrite] the amount with {value}.",
    "[Can|Could] you [set|change] the amount of {what} to {value}?",
    "{value} is the new amount of {what}.",
    "{what} should be at {value} dollars, [update the amount|change the amount].",
    "Make {value} the amount of {what}.",
)
NOTE = rotated(
    4,
    '[Add|Write] a note [on|to] {who}: "{value}".',
    '[Add|Put] the note "{value}" [on|to] {who}.',
    'Note for {who}: "{value}".',
    '[Please |]note on {who} that: "{value}".',
    'Leave a note on {who} [saying|that says] "{value}".',
    '{who} gets a note: "{value}".',
    'New note on {who}: "{value}".',
    '[Save|Store] "{value}" as a note on {who}.',
    'A note for the file of {who}: "{value}".',
    '[Can|Could] you [add|write] the note "{value}" [on|to] {who}?',
    '"{value}" should be noted on {who}.',
    'For {who}, [write down|add] a note: "{value}".',
    'Make a note on {who}: "{value}".',
    '[Attach|Pin] this note to {who}: "{value}".',
    '"{value}", that is a note for {who}.',
)
CALL = rotated(
    8,
    "[Log|Record] a call with {who}: {value}.",
    "I called {who}: {value}. [Log it|Record it].",
    "Log my call [with|to] {who} as {value}.",
    "[Please |]log a call to {who}, outcome {value}.",
    "Call with {who}: {value}.",
    "New call with {who}, outcome {value}.",
    "I [phoned|rang] {who}, outcome {value}.",
    "My call to {who} ended with {value}. [Log it|Record it].",
    "Just called {who}, it was {value}.",
    "The call with {who} was {value}, [log it|record it].",
    "For {who}, log a call: {value}.",
    "[Can|Could] you log a call with {who} as {value}?",
    "Outcome of my call to {who}: {value}.",
    "Tried {who} by phone: {value}. [Log it|Record it].",
    "[Save|Add] a call with {who}, outcome {value}.",
)

REMARK_HEADS = (
    "wants",
    "asked for",
    "needs",
    "likes",
    "prefers",
    "waits for",
    "expects",
    "refused",
    "ordered",
    "returned",
    "praised",
    "tested",
    "lost",
    "found",
    "compares",
    "postponed",
    "cancelled",
    "recommends",
    "dislikes",
    "checks",
)
REMARK_MIDDLES = (
    "",
    "",
    "the ",
    "a new ",
    "our ",
    "more ",
    "the old ",
    "two ",
    "cheaper ",
    "last year's ",
    "the blue ",
    "better ",
)
REMARK_TAILS = (
    "demo",
    "samples",
    "invoice",
    "morning calls",
    "price list",
    "site visit",
    "training",
    "spare parts",
    "contract",
    "catalogue",
    "discount",
    "warranty",
    "reports",
    "manual",
    "crates",
    "labels",
    "filters",
    "brochure",
    "delivery slot",
    "test unit",
    "licence",
    "newsletter",
    "workshop",
    "pallets",
    "stickers",
    "login",
    "reference",
    "quote",
    "van",
    "desk",
)
TASK_HEADS = (
    "send",
    "check",
    "prepare",
    "review",
    "print",
    "order",
    "collect",
    "sign",
    "update",
    "translate",
    "scan",
    "return",
)


def remark(rng: random.Random) -> str:
    """Draw a remark of two to five words, one of 7,000, such as `asked for a new price list`."""
    return f"{rng.choice(REMARK_HEADS)} {rng.choice(REMARK_MIDDLES)}{rng.choice(REMARK_TAILS)}"


def errand(rng: random.Random) -> str:
    """Draw a task title of two to four words, such as `prepare the test unit`."""
    return (
        f"{rng.choice(TASK_HEADS)} "
        f"{rng.choice(('', 'the ', 'our ', 'the new '))}{rng.choice(REMARK_TAILS)}"
    )
