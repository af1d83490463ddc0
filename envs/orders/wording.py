"""Wording of requests to the order desk: ten frames per kind; the last ones are held out."""

from __future__ import annotations

from envgym import Draw

STATUS = (
    "Set order {what} to {value}.",
    "Order {what} is {value} now.",
    "Mark {what} as {value}.",
    "Please put {what} on {value}.",
    "{what} has been {value}, update it.",
    "The status of {what} is {value}.",
    "Change the status of {what} to {value}.",
    "New status for {what}: {value}.",
    "Could you set {what} to {value}?",
    "{value} is the new status of {what}.",
)
CARRIER = (
    "Send {what} by {value}.",
    "Order {what} goes by {value}.",
    "Change the carrier of {what} to {value}.",
    "Use {value} for {what}.",
    "Please set {what} to {value} delivery.",
    "The carrier of {what} is {value} now.",
    "New carrier for {what}: {value}.",
    "For {what}, take {value}.",
    "Could you send {what} by {value}?",
    "{value} is the new carrier of {what}.",
)
NOTE = (
    'Note on {what}: "{value}".',
    'Put the note "{value}" on {what}.',
    'Order {what} gets the note "{value}".',
    'Please note "{value}" on order {what}.',
    'Write "{value}" as note on {what}.',
    'The note of {what} is "{value}".',
    'Set the note of {what} to "{value}".',
    'Add to {what} the note "{value}".',
    'Could you note "{value}" on {what}?',
    '"{value}" is the note for {what}.',
)
PRICE = (
    "Set the price of {what} to {value}.",
    "{what} costs {value} now.",
    "New price for {what}: {value}.",
    "Please change the price of {what} to {value}.",
    "Sell {what} for {value}.",
    "The price of {what} is {value} from today.",
    "We take {value} for {what} now, update the price.",
    "Put {value} as price on {what}.",
    "Could you price {what} at {value}?",
    "{value} is the new price of {what}.",
)
STOCK = (
    "Set the stock of {what} to {value}.",
    "We have {value} of {what} now.",
    "New stock for {what}: {value}.",
    "Please change the stock of {what} to {value}.",
    "We counted {value} of {what}, update the stock.",
    "The stock of {what} is {value} today.",
    "Put {value} as stock of {what}.",
    "Of {what} there are {value} in stock.",
    "Could you set the stock of {what} to {value}?",
    "{value} is the new stock of {what}.",
)
PHONE = (
    "Set the phone of {who} to {value}.",
    "{who} has a new phone: {value}.",
    "New phone for {who}: {value}.",
    "Please change the phone of {who} to {value}.",
    "The phone of {who} is now {value}.",
    "Save {value} as phone for {who}.",
    "From now on {who} is reached at {value}.",
    "Put {value} as the phone of {who}.",
    "Could you set the phone of {who} to {value}?",
    "{value} is the new phone of {who}.",
)
EMAIL = (
    "Set the email of {who} to {value}",
    "{who} has a new email: {value}",
    "New email for {who}: {value}",
    "Please change the email of {who} to {value}",
    "The email of {who} is now {value}",
    "Save {value} as email for {who}.",
    "From now on write to {who} at {value}",
    "Put {value} as the email of {who}.",
    "Could you set the email of {who} to {value} ?",
    "{value} is the new email of {who}.",
)
NEW_ORDER = (
    "Open an order for {who}, carrier {value}.",
    "{who} wants to order, by {value}.",
    "New order for {who} by {value}.",
    "Please start an order for {who}, {value} delivery.",
    "Create an order for {who} with {value}.",
    "{who} orders again, send it by {value}.",
    "Make {who} a new order with carrier {value}.",
    "An order by {value} for {who}, please.",
    "Could you open an order by {value} for {who}?",
    "By {value}: a new order for {who}.",
)
OPEN_CARRIER = (
    "Send the open order of {who} by {value}.",
    "The open order of {who} goes by {value}.",
    "{who} wants the open order by {value}.",
    "Please change the carrier of the open order of {who} to {value}.",
    "Use {value} for the open order of {who}.",
    "For the open order of {who}, take {value}.",
    "New carrier for the order that {who} has open: {value}.",
    "Set the open order of {who} to {value} delivery.",
    "Could you send the order {who} has open by {value}?",
    "{value} is the carrier for the open order of {who}.",
)
ADD = (
    "Add {value} {what} to the open order of {who}.",
    "{who} wants {value} {what} in the open order.",
    "Put {value} {what} into the open order of {who}.",
    "The open order of {who} gets {value} {what} more.",
    "Please add {value} times {what} to the order {who} has open.",
    "{value} {what} go into the open order of {who}.",
    "For {who}, {value} {what} in the open order.",
    "To the order {who} has open, add {value} {what}.",
    "Could you put {value} {what} into the open order of {who}?",
    "{value} times {what} for the open order of {who}.",
)
REMOVE = (
    "Take the {what} out of the open order of {who}.",
    "{who} no longer wants the {what} in the open order.",
    "Remove the {what} from the open order of {who}.",
    "Please drop the {what} from the order {who} has open.",
    "The open order of {who} goes without the {what}.",
    "No {what} in the open order of {who}, take it out.",
    "For {who}, delete the {what} from the open order.",
    "From the order {who} has open, remove the {what}.",
    "Could you take the {what} out of the open order of {who}?",
    "Without the {what}, please: the open order of {who}.",
)
REFUND = (
    "Refund the delivered {what} of {who} in full, reason {value}.",
    "{who} gets all money back for the delivered {what}: {value}.",
    "Pay {who} the delivered {what} back in full, it was {value}.",
    "Full refund to {who} for the delivered {what}, {value}.",
    "Please refund {who} the whole delivered order with the {what}, {value}.",
    "The delivered {what} of {who} was {value}, refund all of it.",
    "{value}: refund the delivered {what} of {who} completely.",
    "Give {who} the full price of the delivered {what} back, {value}.",
    "Could you refund {who} the delivered {what} in full, {value}?",
    "All money back to {who} for the delivered order with the {what}, {value}.",
)


def say(draw: Draw, phrasings: tuple[str, ...], **slots: object) -> str:
    """Draw a frame of the task's split and fill its slots."""
    text = draw.wording(phrasings).format(**slots)
    return text[0].upper() + text[1:]
