"""Text of one episode for the terminal: its messages, its result and its reward by part."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from envgym.episode import Episode
from envgym.terms import PENALTY, Term
from envgym.text import one_line, terminal, to_json, visible


def print_episode(
    episode: Episode, *, conversation: bool = True, console: Console | None = None
) -> None:
    """Print one episode: its messages (if `conversation` is set), its result and its reward."""
    console = console or terminal.Console()
    if conversation:
        for message in episode.messages:
            heading = one_line(f"{message.role} {message.name or ''}")
            console.print(Text(heading, style="bold cyan"))
            console.print(Text(visible(message.content) + "\n"), soft_wrap=True)
    for line in episode_lines(episode):
        console.print(Text(visible(line)), soft_wrap=True)


def episode_lines(episode: Episode) -> list[str]:
    """Return lines that describe how an episode ended: result, reward by part, changed rows."""
    if episode.failure:
        return [
            f"void: {episode.failure.kind} in {episode.failure.stage}: {episode.failure.message}"
        ]
    result = {True: "solved", False: "not solved", None: "ended"}[episode.success]
    reward = "" if episode.reward is None else f" · reward {episode.reward:.3g}"
    calls = (
        f"{episode.turns} turns · {episode.tool_calls} tool calls, {episode.tool_errors} refused"
    )
    lines = [f"{result}{reward} · {episode.stop_reason} · {calls}"]
    if first := episode.retried_failure:
        lines.append(f"  second attempt; the first was void: {first.kind} in {first.stage}")
    lines += [f"  a tool failed: {fault}" for fault in episode.tool_faults]
    if episode.turn_stops[-1:] == ("length",):
        lines.append("  the token limit cut the last answer")
    lines += [
        f"  {name}: {_part(value, episode.reward_terms.get(name))}"
        for name, value in episode.reward_parts.items()
    ]
    if penalty := episode.reward_terms.get(PENALTY):
        lines.append(f"  {PENALTY}: adds {penalty.contribution:.3g}")
    if episode.state_diff:
        lines.append(f"  state diff: {to_json(episode.state_diff)}")
    return lines


def _part(value: float | None, term: Term | None) -> str:
    """Return the value of a part, and its contribution to the reward if the two numbers differ.

    An aborted episode has terms for parts that were not evaluated.
    """
    if value is None:
        if term is None or term.value is None:
            return "did not apply"
        return f"not evaluated, adds {term.contribution:.3g}"
    if term is None or f"{term.contribution:.3g}" == f"{value:.3g}":
        return f"{value:.3g}"
    gate = "" if term.gate_is_open else " (gate shut)"
    return f"{value:.3g}, adds {term.contribution:.3g}{gate}"
