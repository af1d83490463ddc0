"""Wording of report requests: ten frames per piece of a request; the last ones are held out."""

from __future__ import annotations

from envgym import Draw

LISTED = (
    "{kind}, {column}: {pairs}.",
    "We have for {kind} {column}: {pairs}.",
    "The {column} numbers of {kind}: {pairs}.",
    "{pairs}. That is {kind}, {column}.",
    "Numbers for {kind} ({column}): {pairs}.",
    "This is {kind} {column}: {pairs}.",
    "Look at {kind} {column}: {pairs}.",
    "For {kind} we count as {column}: {pairs}.",
    "From the shelf of {kind}, {column}: {pairs}.",
    "Counted as {column} in {kind}: {pairs}.",
)
FILED = (
    "Take the column {column} of {file}.",
    "Use {column} from {file}.",
    "Look up {column} in {file}.",
    "It is about {column} in {file}.",
    "Work with the {column} numbers in {file}.",
    "See {file}, column {column}.",
    "Read {file}; we need {column}.",
    "The numbers are in {file} under {column}.",
    "Our subject: {file}, and there {column}.",
    "You find {column} as a column of {file}.",
)
BARS = (
    'Draw them as bars in chart.svg, title "{title}".',
    'Make a bar chart "{title}" in chart.svg.',
    'Put a bar chart titled "{title}" into chart.svg.',
    'Save a bar chart as chart.svg, titled "{title}".',
    'chart.svg should be a bar chart with the title "{title}".',
    'Show them in a bar chart, chart.svg, called "{title}".',
    'I need chart.svg, a bar chart called "{title}".',
    'A bar chart "{title}", please, as chart.svg.',
    'Could you plot bars into chart.svg under the title "{title}"?',
    'Under the headline "{title}", plot bars to chart.svg.',
)
LINES = (
    'Draw them as a line in chart.svg, title "{title}".',
    'Make a line chart "{title}" in chart.svg.',
    'Put a line chart titled "{title}" into chart.svg.',
    'Save a line chart as chart.svg, titled "{title}".',
    'chart.svg should be a line chart with the title "{title}".',
    'Show them in a line chart, chart.svg, called "{title}".',
    'I need chart.svg, a line chart called "{title}".',
    'A line chart "{title}", please, as chart.svg.',
    'Could you plot a line into chart.svg under the title "{title}"?',
    'Under the headline "{title}", plot a line to chart.svg.',
)
SUMMARY = (
    "Write summary.json, an object with {keys}.",
    "Put an object with {keys} into summary.json.",
    "summary.json gets a JSON object with {keys}.",
    "Save JSON with {keys} as summary.json.",
    "Make summary.json with {keys}.",
    "Note {keys} as an object in summary.json.",
    "Keep {keys} as JSON in summary.json.",
    "I need summary.json: JSON with {keys}.",
    "Could you store {keys} in summary.json as one object?",
    "As one object, {keys} belong into summary.json.",
)
SENTENCE = (
    "Say in one sentence which has the {most} and how many; name no other.",
    "Answer with one sentence: which one has the {most}, and its number, nothing of the others.",
    "Tell me which has the {most}, with the number, in a sentence about that one only.",
    "One sentence, please: the one with the {most} and its number, no others.",
    "End with a sentence that names the one with the {most} and its number alone.",
    "Which has the {most}, and how many? One sentence, only that one.",
    "Finish by telling which has the {most} and its number, leaving out the others.",
    "Name the one with the {most} and its number in a sentence, and no other.",
    "Could you close with a sentence on nothing but the one with the {most} and its number?",
    "In your closing sentence, give just the one with the {most} and its number.",
)


def say(draw: Draw, phrasings: tuple[str, ...], **slots: object) -> str:
    """Draw a frame of the task's split and fill its slots."""
    text = draw.wording(phrasings).format(**slots)
    return text if text.startswith(("chart.svg", "summary.json")) else text[0].upper() + text[1:]
