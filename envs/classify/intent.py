"""Customer intent: named directly (L0), paraphrased (L1), beside another, settled matter (L2).

Held out: requests of a library's readers, with other labels.
"""

from __future__ import annotations

from parts import THINGS, in_turn, labelled, several

from envgym import Draw, Task, template

LABELS = ("refund", "delivery", "password", "invoice")
NAMED = {
    "refund": (
        "I want a refund for my {thing}",
        "please start a refund of the {thing}",
        "tell me how to get a refund for the {thing}",
        "a refund for the {thing}, please",
        "you owe me a refund for one {thing}",
        "the refund of my {thing} is overdue",
        "I ask for a full refund of the {thing}",
        "my {thing} came broken, so I claim a refund",
        "the {thing} was bad and I expect a refund",
        "I was promised a refund for the {thing}",
    ),
    "delivery": (
        "I miss the delivery with my {thing}",
        "the delivery of my {thing} is late",
        "tell me when the delivery of the {thing} comes",
        "I am still waiting for the delivery of a {thing}",
        "my {thing} was missing from the delivery",
        "the {thing} should have been in today's delivery",
        "please move the delivery of the {thing} to Friday",
        "nobody told me of a delivery day for the {thing}",
        "the delivery with my {thing} went to the wrong door",
        "I ask about the delivery of one {thing}",
    ),
    "password": (
        "my password fails when I buy a {thing}",
        "I forgot the password and cannot order a {thing}",
        "please reset my password, I want to order a {thing}",
        "the shop refuses my password at the {thing} page",
        "to order the {thing} I need a new password",
        "my old password no longer works for the {thing}",
        "I typed the password five times for a {thing}",
        "a wrong password, it says, when I want the {thing}",
        "the link for a new password never came, and I need a {thing}",
        "change my password before I order the {thing}",
    ),
    "invoice": (
        "the invoice for my {thing} is wrong",
        "I did not get an invoice for the {thing}",
        "please correct the invoice of the {thing}",
        "the {thing} stands twice on my invoice",
        "send me the invoice for the {thing} again",
        "my company's name is missing on the invoice for the {thing}",
        "the invoice lists a {thing} that I never ordered",
        "I need an invoice for the {thing} by mail",
        "an invoice for one {thing} went to my old address",
        "the tax on the invoice for the {thing} is off",
    ),
}
MEANT = {
    "refund": (
        "I want my money back for the {thing}",
        "I send the {thing} back and expect what I paid",
        "please return what the {thing} cost me",
        "the {thing} broke, so pay me back",
        "give me back what I spent on the {thing}",
        "I returned the {thing} and still miss my money",
        "my money for the {thing} should be back by now",
        "pay back the price of the {thing}",
        "reimburse me for the {thing}",
        "the {thing} is no good and I want to be repaid",
    ),
    "delivery": (
        "the {thing} has not reached me yet",
        "nobody has brought the {thing} so far",
        "the parcel with the {thing} is nowhere to be seen",
        "I have been waiting for the {thing} to arrive",
        "the courier with my {thing} does not come",
        "tell me when the {thing} will be here",
        "I still have no {thing} at my door",
        "the truck with the {thing} drove past my house",
        "my {thing} is somewhere on the road",
        "the {thing} went to my neighbour's town",
    ),
    "password": (
        "I cannot log in to order a {thing}",
        "the shop does not let me into my account to buy a {thing}",
        "signing in fails whenever I want a {thing}",
        "my account is locked and I need a {thing}",
        "I am shut out of my account while looking for a {thing}",
        "logging in is impossible, so no {thing} for me",
        "I forgot my secret word and want a {thing}",
        "my account does not know me any more, and I need a {thing}",
        "I am thrown out as I sign in for a {thing}",
        "my login is refused when I look for a {thing}",
    ),
    "invoice": (
        "the bill for the {thing} shows too much",
        "you charged me twice for the {thing}",
        "the amount you ask for the {thing} is wrong",
        "I need the bill for the {thing} with my company's name",
        "the sum you billed for the {thing} is not what we agreed",
        "on paper the {thing} costs more than in the shop",
        "send me the bill for the {thing} again",
        "the tax on the bill for the {thing} is off",
        "my bookkeeper lacks the paper for the {thing}",
        "I was billed for a {thing} that I never ordered",
    ),
}
SETTLED = {
    "refund": (
        "the money for the {thing} is back already",
        "I got back what I paid for the {thing}",
        "my money for the {thing} has returned",
        "what the {thing} cost was paid back to me",
        "I have been paid back for the {thing}",
    ),
    "delivery": (
        "the {thing} arrived in time",
        "the courier brought the {thing} yesterday",
        "the parcel with the {thing} is here",
        "the {thing} stands in my hall now",
        "I hold the {thing} in my hands",
    ),
    "password": (
        "logging in to buy the {thing} works again",
        "I can get into my account to see the {thing}",
        "signing in for the {thing} went well",
        "my account is open again, also for the {thing}",
        "I was let into my account to look at the {thing}",
    ),
    "invoice": (
        "the bill for the {thing} was right",
        "you charged the {thing} correctly",
        "the sum for the {thing} is as agreed",
        "I received a proper bill for the {thing}",
        "what you billed for the {thing} is in order",
    ),
}
READERS_LABELS = ("renewal", "reservation", "fine", "card")
READERS = {
    "renewal": (
        "I need the {thing} for two more weeks",
        "may I keep the {thing} a little longer",
        "the {thing} is due today and I am not done with it",
        "please push back the day on which the {thing} must be returned",
    ),
    "reservation": (
        "somebody else has the {thing}, keep it for me when it comes back",
        "put me on the list for the {thing}",
        "I would like to be the next one to get the {thing}",
        "set the {thing} aside for me until Friday",
    ),
    "fine": (
        "I brought the {thing} back late, what do I owe",
        "you ask money of me for the {thing} though it came back in time",
        "how much is it for a {thing} that is a week over",
        "I want to pay for having kept the {thing} too long",
    ),
    "card": (
        "I lost what I show at the desk and cannot borrow the {thing}",
        "I am new here, how do I sign up to borrow a {thing}",
        "the desk says that I am no longer a member, so no {thing} for me",
        "my name is misspelt on my papers, and now I cannot take the {thing} home",
    ),
}
TOGETHER = (
    "{Settled}, but {open}.",
    "{Open}. By the way, {settled}.",
    "{Settled}. Still, {open}.",
    "{Open}, though {settled}.",
    "{Settled}; however, {open}.",
    "{Open}. At least {settled}.",
    "{Settled}. One thing remains: {open}.",
    "{Open}. Otherwise all is well, {settled}.",
    "{Settled}, and now {open}.",
    "{Open}. Apart from that, {settled}.",
)


@template(level="L0")
def intent_named(draw: Draw) -> Task:
    return _alone(draw, NAMED)


@template(level="L1")
def intent_meant(draw: Draw) -> Task:
    return _alone(draw, MEANT)


@template(level="L2")
def intent_beside_another(draw: Draw) -> Task:
    """Combine an open and a settled matter in either order, so that position does not help."""
    label = in_turn(draw, LABELS)
    other = draw.rng.choice([name for name in LABELS if name != label])
    first, second = several(draw, THINGS, 2)
    slots = {
        "open": draw.wording(MEANT[label]).format(thing=first),
        "settled": draw.wording(SETTLED[other]).format(thing=second),
    }
    slots |= {name.capitalize(): _capital(text) for name, text in slots.items()}
    return labelled(draw, f"Message: {draw.wording(TOGETHER).format(**slots)}", label, LABELS)


@template(level="L1", splits=("test",))
def intent_of_readers(draw: Draw) -> Task:
    label = in_turn(draw, READERS_LABELS)
    text = draw.rng.choice(READERS[label]).format(thing=several(draw, THINGS, 1)[0])
    return labelled(draw, f"Message: {_capital(text)}.", label, READERS_LABELS)


def _alone(draw: Draw, phrasings: dict[str, tuple[str, ...]]) -> Task:
    label = in_turn(draw, LABELS)
    text = draw.wording(phrasings[label]).format(thing=several(draw, THINGS, 1)[0])
    return labelled(draw, f"Message: {_capital(text)}.", label, LABELS)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
