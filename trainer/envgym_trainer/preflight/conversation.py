"""Preflight checks of the tokenized conversation: prompt, append-only history, stop ids, length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

from envgym.episode import Episode
from envgym.evaluation.checks.fixture import CheckResult
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.tools import to_openai
from envgym_trainer.batch import Sample
from envgym_trainer.inference.token_session import DialogueTokens, TurnRequest
from envgym_trainer.learner.prefix_tree import tree_batch
from envgym_trainer.model.chat import Chat, eos_ids
from envgym_trainer.preflight.context import PreflightContext, preflight_result

EXCHANGE = [
    Message("user", "a"),
    Message("assistant", "b"),
    Message("user", "c"),
    Message("assistant", "d"),
]
KEEP = (
    "The dialogue then continues on the rewritten prompt, which is computed again. To keep the "
    "past as it was sampled, set prompt.keep_reasoning=true"
)


def first_prompt(subject: PreflightContext) -> str:
    """Return the first training task's prompt as the model reads it, or "" without tasks."""
    if not subject.tasks:
        return ""
    task = subject.tasks[0]
    return _text(
        subject.chat, subject.chat.open(subject.tool_world.opening(task), _tools(subject, task))
    )


def prompt(subject: PreflightContext) -> CheckResult:
    """Check that each task's text is in its prompt, and that a whole answer fits after it."""
    if not subject.has_own_tasks:
        return CheckResult("prompt", True, "a foreign environment, which has no task prompts")
    rollout = subject.config.rollout
    answer = rollout.max_turn_tokens
    lengths = []
    problems = []
    for task in subject.tasks:
        ids = subject.chat.open(subject.tool_world.opening(task), _tools(subject, task))
        lengths.append(len(ids))
        if task.prompt.strip() not in _text(subject.chat, ids):
            problems.append(f"{task.id}: the task's text is not in the rendered prompt")
        elif len(ids) + answer > rollout.max_context_tokens:
            problems.append(
                f"{task.id}: {len(ids)} tokens and an answer of {answer} exceed "
                f"{rollout.max_context_tokens}"
            )
    remedy = (
        f"Set train.rollout.max_context_tokens={max(lengths) + answer} or more, or offer fewer "
        "tools"
    )
    return preflight_result(
        "prompt",
        problems,
        len(lengths),
        passed=f"{min(lengths)} to {max(lengths)} tokens",
        remedy=remedy,
    )


def template(subject: PreflightContext) -> CheckResult:
    """Check that history is a prefix of each later prompt, also with reasoning.

    If it is not, dialogues continue on rewritten prompts, which is a warning.
    """
    tools = {task.id: _tools(subject, task) for task in subject.tasks}
    longest = sorted(subject.demos, key=lambda episode: -episode.turns)[:4]
    played = [(list(episode.messages), tools[episode.task_id]) for episode in longest] or [
        (EXCHANGE, [])
    ]
    for messages, offered in played:
        if found := changed_turn(subject.chat, messages, offered):
            return CheckResult("template", False, found)
        if found := rewritten_turn(subject.chat, messages, offered):
            return CheckResult("template", True, f"{found}. {KEEP}", warning=True)
        if found := rewritten_turn(subject.chat, _with_reasoning(messages), offered):
            told = f"if the model reasons in <think>: {found}. {KEEP}"
            return CheckResult("template", True, told, warning=True)
    turns = max(sum(message.role == "assistant" for message in messages) for messages, _ in played)
    return CheckResult(
        "template", True, f"{len(played)} conversations of up to {turns} turns are append-only"
    )


def _with_reasoning(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with reasoning in each answer, which many templates drop later."""
    thought = "<think>\nhm\n</think>\n\n"
    return [
        replace(m, content=thought + m.content) if m.role == "assistant" else m for m in messages
    ]


def rewritten_turn(chat: Chat, messages: Sequence[Message], tools: Any) -> str:
    """Return where the chat template rewrites an earlier turn; empty if it only appends."""
    for index, new in _turns(messages):
        found = chat.extend(messages[: index + 1], new, tools, closed=True)
        if found.rewritten:
            return f"the chat template rewrites earlier text at {found.rewritten}"
    return ""


def changed_turn(chat: Chat, messages: Sequence[Message], tools: Any) -> str:
    """Return how a new rendering of a text conversation differs from its tokens; empty if equal."""
    turns = list(_turns(messages))
    if chat.rendering != "text" or rewritten_turn(chat, messages, tools) or not turns:
        return ""
    ids = chat.open(messages[: turns[0][0]], tools)
    for turn, (index, new) in enumerate(turns, 1):
        ids = [*ids, *chat.answer(messages[index].content)]
        ids += chat.observe(new, closed=True, history=messages[: index + 1], tools=tools)
        whole = chat.open(messages[: index + 1 + len(new)], tools)
        if ids != whole and _text(chat, ids) != _text(chat, whole):
            return f"the chat template renders turn {turn} differently once it is history"
    return ""


def _turns(messages: Sequence[Message]) -> Iterator[tuple[int, Sequence[Message]]]:
    """Yield the place of each answer that messages follow, and these messages."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for index, following in pairwise([*answers, len(messages)]):
        if new := messages[index + 1 : following]:
            yield index, new


def end_of_turn(subject: PreflightContext) -> CheckResult:
    """Check that every stop id ends a turn, is kept as sampled, and is in the learner's batch."""
    chat = subject.chat
    missing = sorted(
        (eos_ids(subject.model.generation_config) | eos_ids(chat.tokenizer)) - chat.stop_ids
    )
    problems = [
        f"id {token} ({_text(chat, [token])}) ends a turn in the model's config, but not here"
        for token in missing
    ]
    problems += [
        f"id {token} ends a turn, but is not trained"
        for token in sorted(chat.stop_ids)
        if not _is_trained(chat, token)
    ]
    problems += [
        where
        for episode in subject.demos
        if episode.tokens and (where := _untrained_turn(chat, episode))
    ]
    names = ", ".join(_text(chat, [token]) for token in sorted(chat.stop_ids))
    if problems:
        return CheckResult(
            "end_of_turn",
            False,
            f"{'; '.join(problems[:3])}. The model would not learn to end its turns. "
            "Set train.model to an instruct (chat) model",
        )
    return CheckResult("end_of_turn", True, f"{names}: sampled, kept and trained")


def _is_trained(chat: Chat, stop_id: int) -> bool:
    """Return whether a turn ends with this id when sampled, and whether the batch trains it."""
    dialogue = DialogueTokens(chat.open([Message("user", "x")]), seed=0)
    request = TurnRequest(
        dialogue, 1.0, max_new_tokens=8, stop_ids=chat.stop_ids, max_context=10**6
    )
    other = next(token for token in range(len(chat.stop_ids) + 1) if token not in chat.stop_ids)
    reasons = [request.take(token, -1.0) for token in (other, stop_id)]
    return reasons == [None, "stop"] and trained_ids(dialogue.trace())[stop_id] == 1


def _untrained_turn(chat: Chat, episode: Episode) -> str:
    """Return a problem if some answers of a demonstration have no stop id in the batch, or ""."""
    assert episode.tokens is not None
    ends = sum(
        count for token, count in trained_ids(episode.tokens).items() if token in chat.stop_ids
    )
    if ends >= episode.turns:
        return ""
    return (
        f"{episode.task_id}: {episode.turns} turns of the oracle, but {ends} stop ids in the batch"
    )


def trained_ids(trace: TokenTrace) -> Counter[int]:
    """Return id -> number of times that the learner's batch trains it."""
    sample = Sample.from_trace(trace, advantage=1.0)
    if not sample.num_actions:
        return Counter()
    batch = tree_batch([sample])
    return Counter(batch.score_ids[batch.action_nodes].tolist())


def context(subject: PreflightContext) -> CheckResult:
    """Check that the oracle's answers fit max_new_tokens and its dialogues fit max_context."""
    traces = {episode.task_id: episode.tokens for episode in subject.demos if episode.tokens}
    if not traces:
        return CheckResult(
            "context", True, "not checked, because no task has an oracle", warning=True
        )
    rollout = subject.config.rollout
    whole = {task: trace.longest_stream for task, trace in traces.items()}
    answer = {task: max(answer_lengths(trace), default=0) for task, trace in traces.items()}
    problems = [
        f"{task}: {whole[task]} tokens, its longest answer {answer[task]}"
        for task in sorted(traces, key=lambda task: -whole[task])
        if whole[task] > rollout.max_context_tokens or answer[task] > rollout.max_turn_tokens
    ]
    most = max(whole.values())
    longest = max(answer.values())
    limits = (
        f"max_context_tokens is {rollout.max_context_tokens}, "
        f"max_turn_tokens {rollout.max_turn_tokens}"
    )
    needed = (
        f"train.rollout.max_context_tokens={max(most, rollout.max_context_tokens)} "
        f"train.rollout.max_turn_tokens={max(longest, rollout.max_turn_tokens)}"
    )
    passed = (
        f"the oracle's longest episode has {most} tokens, its longest answer {longest}; {limits}"
    )
    return preflight_result(
        "context",
        problems,
        len(traces),
        passed=passed,
        remedy=f"{limits}: set {needed}, or train easier levels",
    )


def answer_lengths(trace: TokenTrace) -> list[int]:
    """Return the tokens of each sampled turn of a dialogue."""
    return [len(list(run)) for sampled, run in groupby(trace.loss_mask) if sampled]


def _tools(subject: PreflightContext, task: Any) -> list[dict[str, Any]]:
    """Return the tools that the chat template gets for a task, as in `ToolEnv.reset`."""
    is_native = subject.spec.prompt.rendering == "native"
    return to_openai(list(subject.tool_world.tools_of(task).values())) if is_native else []


def _text(chat: Chat, ids: Sequence[int]) -> str:
    return chat.tokenizer.decode(list(ids), skip_special_tokens=False)
