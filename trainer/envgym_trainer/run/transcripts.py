"""Render episodes as Markdown: messages, sampled tokens, rewards and state changes.

Functions of the episode record only. If `decode` is given, the exact token text is shown with the
sampled part marked; otherwise the messages, and the loss mask as run lengths.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from itertools import groupby

from envgym.episode import Episode
from envgym.secrets import redact
from envgym.text import one_line, to_json, visible

Decode = Callable[[Sequence[int]], str]
MAX_CHARACTERS = 20_000
"""Maximum length of a transcript. TensorBoard shows a text as one page and is slow beyond this."""


def pick(episodes: Sequence[Episode], *, seed: int = 0) -> dict[str, Episode]:
    """Return the best, the worst and a random episode, without void ones. May return fewer."""
    scored = [episode for episode in episodes if not episode.is_void]
    if not scored:
        return {}
    ordered = sorted(scored, key=lambda episode: episode.reward or 0.0)
    return {"best": ordered[-1], "worst": ordered[0], "random": random.Random(seed).choice(scored)}


def transcript(episode: Episode, *, decode: Decode | None = None) -> str:
    """Return an episode as Markdown, at most MAX_CHARACTERS long."""
    parts = [
        _headline(episode),
        _rewards(episode),
        _conversation(episode),
        _mask(episode, decode),
        _diff(episode),
    ]
    text = redact("\n\n".join(part for part in parts if part))
    return (
        text
        if len(text) <= MAX_CHARACTERS
        else text[:MAX_CHARACTERS] + f"\n\n... {len(text) - MAX_CHARACTERS} characters cut"
    )


def mask_runs(loss_mask: Sequence[bool]) -> list[tuple[bool, int]]:
    """Return run lengths: [False, False, True] -> [(False, 2), (True, 1)]."""
    return [(value, len(list(run))) for value, run in groupby(loss_mask)]


def _headline(episode: Episode) -> str:
    result = {True: "solved", False: "not solved", None: "success unknown"}[episode.success]
    reward = "void" if episode.reward is None else f"reward {episode.reward:.3g}"
    names = (episode.task_id or episode.env_id, episode.level)
    where = " · ".join(inline(name) for name in names if name)
    ending = (
        f"{inline(episode.stop_reason) or 'no stop reason'} · {episode.turns} turns · "
        f"{episode.tool_calls} calls"
    )
    line = f"**{where}** · {result} · {reward} · {ending}, {episode.tool_errors} refused"
    failure = episode.failure
    return (
        line
        if failure is None
        else f"{line}\n\nfailure: {failure.kind} in {failure.stage}:\n\n{_block(failure.message)}"
    )


def _rewards(episode: Episode) -> str:
    if episode.reward_terms:
        return _terms(episode)
    if not episode.reward_parts:
        return ""
    rows = [
        f"| {inline(name)} | {'did not apply' if value is None else f'{value:.3g}'} |"
        for name, value in episode.reward_parts.items()
    ]
    return "\n".join(["| part | value |", "|---|---|", *rows])


def _terms(episode: Episode) -> str:
    """Return a table of reward terms, followed by parts that occur in the advantage only."""
    terms = episode.reward_terms
    shares = episode.advantage_parts
    rows = [
        f"| {inline(name)} | {'did not apply' if term.raw is None else f'{term.raw:.3g}'} "
        f"| {term.weight:.3g} | {term.contribution:.3g} | {_share(episode, name)} |"
        for name, term in terms.items()
    ]
    rows += [
        f"| {inline(name)} | | | | {_share(episode, name)} |"
        for name in shares
        if name not in terms
    ]
    return "\n".join(
        [
            "| part | raw value | weight | contribution | share of advantage |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _share(episode: Episode, name: str) -> str:
    return "" if episode.advantage is None else f"{episode.advantage_parts.get(name, 0.0):+.3g}"


def _conversation(episode: Episode) -> str:
    return "\n\n".join(
        f"**{inline(f'{message.role} {message.name or str()}')}**\n\n{_block(message.content)}"
        for message in episode.messages
    )


def _mask(episode: Episode, decode: Decode | None) -> str:
    """Return the sampled tokens, or their count. All other tokens have no gradient."""
    trace = episode.tokens
    if trace is None:
        return ""
    runs = mask_runs(trace.loss_mask)
    if decode is None:
        counts = " · ".join(
            f"**{length} sampled**" if sampled else f"{length} given" for sampled, length in runs
        )
        return f"{len(trace.token_ids)} tokens: {counts}"
    pieces = []
    start = 0
    for sampled, length in runs:
        text = decode(trace.token_ids[start : start + length])
        pieces.append(f"⟦{text}⟧" if sampled else text)
        start += length
    return f"{len(trace.token_ids)} tokens, ⟦sampled by the policy⟧:\n\n{_block(''.join(pieces))}"


def _diff(episode: Episode) -> str:
    return (
        f"state diff\n\n{_block(to_json(episode.state_diff, indent=1))}"
        if episode.state_diff
        else ""
    )


def inline(text: str) -> str:
    """Return a name for running Markdown text and tables, without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>|!])", r"\\\1", one_line(text))


def _block(text: str) -> str:
    """Return a code block whose fence is longer than any run of back-ticks inside."""
    text = visible(text)
    longest = max(
        (len(list(run)) for character, run in groupby(text) if character == "`"), default=0
    )
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
