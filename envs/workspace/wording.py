"""Wording of requests: sentence frames with alternatives. `Draw.wording` selects by split.

`[Write|Put] it` stands for two sentences. Words that act as shell commands with varying output are
avoided, so that random calls stay reproducible.
"""

from __future__ import annotations

import random
import re

from envgym import Draw

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")


def say(draw: Draw, phrasings: tuple[str, ...], **slots: object) -> str:
    """Draw a frame of the task's split and fill its slots."""
    return _expand(draw.wording(phrasings), draw.rng).format(**slots)


def _expand(phrasing: str, rng: random.Random) -> str:
    return _ALTERNATIVES.sub(lambda found: rng.choice(found.group(1).split("|")), phrasing)


WRITE = (
    '[Write|Put] "{text}" into [a new file|the new file] {path}.',
    'Make a file {path} that [says|holds] "{text}".',
    '[Please save|Save] "{text}" as {path}.',
    'A new file {path} should [hold|contain] the line "{text}".',
    'In {path}, a new file, write down: "{text}".',
    'Note "{text}" in {path}, which is not there yet.',
)
CHANGE = (
    "In {path}, change {key} from {old} to {new}.",
    "[Set|Put] {key} in {path} to {new}; it is {old} now.",
    "{path}: {key} = {old} should become {new}.",
    "The {key} in {path} is {old}. [Make it|Turn it into] {new}.",
    "Instead of {old}, {key} in {path} has to be {new}.",
    "Correct {path}: not {old} but {new} for {key}.",
)
DELETE = (
    "[Delete|Remove] {path}.",
    "[Please get|Get] rid of {path}.",
    "{path} can go.",
    "We do not need {path} any more, [delete|remove] it.",
    "Throw {path} away.",
    "The file {path} is obsolete; take it out.",
)
RENAME = (
    "Rename {path} to {new}.",
    "{path} should be called {new}.",
    "Give {path} the name {new}.",
    "The new name of {path} is {new}.",
    "Move {path} to {new}.",
)
EXECUTABLE = (
    "Make {path} executable (mode {mode}).",
    "[Set|Put] the permissions of {path} to {mode}.",
    "{path} must be executable: give it mode {mode}.",
    "[Please give|Give] {path} the permissions {mode}.",
    "{path} should have mode {mode}.",
    "Permissions of {path}: {mode}, please.",
)
RENAME_ALL = (
    "Rename every .{old} file in {folder} to .{new}.",
    "In {folder}, all .{old} files [should|must] end in .{new}.",
    "Change the ending of each .{old} file in {folder} to .{new}.",
    "[Please turn|Turn] .{old} into .{new} in the names of the files in {folder}.",
    "The files in {folder} that end in .{old} get the ending .{new}.",
    "Let the .{old} files of {folder} be .{new} files; only their names change.",
)
DELETE_EMPTY = (
    "Delete the empty files in {folder}, but [keep|not] {kept}.",
    "[Remove|Delete] all files of {folder} that are empty, except {kept}.",
    "{folder} has empty files. [Delete|Remove] them, only {kept} stays.",
    "Clean {folder}: no empty files but {kept}.",
    "Every empty file of {folder} goes; {kept} may stay empty.",
    "Nothing empty should be left in {folder} apart from {kept}.",
)
SETTING = (
    "[Set|Put] {key} in {path} to {new}.",
    "In {path}, {key} should be {new}.",
    "Change {key} to {new} in {path}.",
    "{path} needs {key} at {new}.",
    "From now on {key} is {new}; see {path}.",
    "Bring {key} to {new}, in {path}.",
)
CLOSE = (
    "Take the right to write away from others in {folder}; {path} was just one of them.",
    "Nobody but owner and group may write to the files in {folder}, such as {path}.",
    (
        "Others should not be able to write to files in {folder} (like {path}); leave all other "
        "rights alone."
    ),
)
SORT = (
    "Sort the lines of {path} and [drop|remove] doubles.",
    "{path} should be sorted, each line once.",
    "Put the lines of {path} in alphabetical order, without repeats.",
    "[Please sort|Sort] {path}; every line may stand there only once.",
    "Order {path} alphabetically and take repeated lines out.",
    "Alphabetical order for {path}, and no line twice.",
)
COUNT = (
    "How many lines of {path} are {level}? Write the number to {answer}.",
    "Count the {level} lines of {path} and put the number into {answer}.",
    "{answer} should hold the number of {level} lines in {path}.",
    "Write to {answer} how often {path} reports {level}.",
    "I need the number of lines with {level} in {path}, in the file {answer}.",
    "Put into {answer} what you get when you count {level} lines in {path}.",
)
SUM = (
    "How many pieces of {product} were ordered in {path}? Write the sum to {answer}.",
    "Add up the quantities of {product} in {path} and put the total into {answer}.",
    "{answer} should hold the total quantity of {product} from {path}.",
    "Write the total of all {product} orders of {path} to {answer}.",
    "I need the whole quantity of {product} in {path}, in the file {answer}.",
    "Put into {answer} how much {product} all orders in {path} come to.",
)
LATEST = (
    "Copy the newest report of {folder} to {new}; the day stands in its name.",
    "{new} should be a copy of the report in {folder} with the latest day in its name.",
    "Take the newest report in {folder}, by its name, and copy it to {new}.",
    "[Please copy|Copy] the most recent file of {folder} (see the names) to {new}.",
    "Which report in {folder} is the newest by name? Put a copy at {new}.",
    "At {new} I want a copy of the youngest report in {folder}, as the names have it.",
)
JOIN = (
    (
        "How many orders in {orders} come from customers in {city} ({customers})? Write the number "
        "to {answer}."
    ),
    (
        "Count the orders of {orders} whose customer lives in {city}, see {customers}. Number to "
        "{answer}."
    ),
    "{answer} should hold the number of orders ({orders}) by customers from {city} ({customers}).",
    "Put into {answer} how many of {orders} were ordered in {city}; {customers} has the cities.",
    "With {customers} and {orders}: the number of orders from {city}, in {answer}.",
    (
        "I need a file {answer} with the number of orders from {city}. Look at {orders} and "
        "{customers}."
    ),
)
LOW = (
    (
        "Which articles in {path} have a count below {limit}? Write their names to {answer}, "
        "sorted, one a line."
    ),
    (
        "List what {path} has fewer than {limit} of in {answer}: one name a line, in alphabetical "
        "order."
    ),
    "{answer} should name each article of {path} with a count under {limit}, sorted, a line each.",
    (
        "Write to {answer}, sorted and one a line, the articles of {path} of which there are fewer "
        "than {limit}."
    ),
    (
        "Everything in {path} with a count smaller than {limit} goes to {answer}, a name a line, "
        "sorted."
    ),
    (
        "Put the names with counts below {limit} from {path} into {answer}, alphabetically, each "
        "on its line."
    ),
)
MERGE = (
    "Put the tables {one} and {two} together in {new}, with one header, in this order.",
    "{new} should hold the rows of {one} and then of {two}, below a single header.",
    (
        "Join {one} and {two} into {new}: the header once, then all rows of the first, then of the "
        "second."
    ),
)
DOUBLES = (
    (
        "Some files in {folder} have the same content. Keep the alphabetically first of each, "
        "delete the others. {kept} stays."
    ),
    (
        "Remove doubles from {folder}: of equal files only the one with the first name stays, such "
        "as {kept}."
    ),
    (
        "[Delete|Remove] each file in {folder} that equals another one with an earlier name (so "
        "{kept} is kept)."
    ),
    (
        "Clean {folder} of copies. Of files with equal content keep the first by name, for example "
        "{kept}."
    ),
    "No two files of {folder} should be equal: the first by name stays, {kept} among them.",
    "Of equal files in {folder} let only the alphabetically first be, like {kept}.",
)
MEND_JSON = (
    "{path} is no valid JSON. Mend it, and [change|lose] nothing else.",
    "Repair {path} so that it is valid JSON with the same content.",
    "A program cannot read {path}, the JSON is broken. [Fix|Mend] it.",
    "[Please fix|Fix] the syntax of {path}; the values stay as they are.",
    "Something is wrong with the JSON in {path}. Put it right without touching the data.",
    "Make {path} a file that a JSON parser accepts, all data kept.",
)
MEND_PROGRAM = (
    "{path} does not do what its first line says. Mend it.",
    "There is a mistake in {path}: see what its first line promises. [Fix|Mend] it.",
    "[Please fix|Fix] {path}, it breaks the promise of its docstring.",
    "The docstring of {path} is right, the code is not. Correct the code.",
    "Find the bug in {path} and put it right; the docstring tells what it should do.",
    "Put {path} right: it should keep what its docstring promises.",
)
NEW_PROGRAM = (
    "Write a Python program {path}: {wish}",
    "We need {path}, a Python program. {wish}",
    "Make {path}, in Python. {wish}",
)
