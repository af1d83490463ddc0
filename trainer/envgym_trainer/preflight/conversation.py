"""The conversation in tokens: the model sees the task, its past is only appended to, its turns end and the end is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.evaluation.checks.fixture import CheckResult
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.tools import to_openai
from envgym_trainer.batch import Sample
from envgym_trainer.inference.in_process.scheduler import Track, Turn
from envgym_trainer.learner.prefix_tree import tree_batch
from envgym_trainer.model.chat import Chat, eos_ids
from envgym_trainer.preflight.context import Subject, verdict

EXCHANGE = [
    Message("user", "a"),
    Message("assistant", "b"),
    Message("user", "c"),
    Message("assistant", "d"),
]
OTHER_MODEL = "Take a model whose template only appends (train.model), such as a ChatML one"


def first_prompt(subject: Subject) -> str:
    """The first training task's prompt, exactly as the model reads it; empty for a foreign environment."""
    if not subject.tasks:
        return ""
    task = subject.tasks[0]
    return _text(
        subject.chat, subject.chat.open(subject.world.opening(task), _tools(subject, task))
    )


def prompt(subject: Subject) -> CheckResult:
    """Each task's words stand in its prompt, and a whole answer fits behind it."""
    if not subject.has_own_tasks:
        return CheckResult("prompt", True, "a foreign environment: rendered as it is played")
    config = subject.config
    lengths = []
    offenders = []
    for task in subject.tasks:
        ids = subject.chat.open(subject.world.opening(task), _tools(subject, task))
        lengths.append(len(ids))
        if task.prompt.strip() not in _text(subject.chat, ids):
            offenders.append(f"{task.id}: its words are not in the rendered prompt")
        elif len(ids) + config.max_new_tokens > config.max_context:
            offenders.append(
                f"{task.id}: {len(ids)} tokens, and an answer of {config.max_new_tokens}, of {config.max_context}"
            )
    way_out = f"Set train.max_context={max(lengths) + config.max_new_tokens} or more, or offer fewer tools"
    return verdict(
        "prompt",
        offenders,
        len(lengths),
        passed=f"{min(lengths)} to {max(lengths)} tokens",
        way_out=way_out,
    )


def template(subject: Subject) -> CheckResult:
    """What was said is a prefix of every later prompt, reasoning included: sampled tokens are never rendered anew."""
    tools = {task.id: _tools(subject, task) for task in subject.tasks}
    longest = sorted(subject.demos, key=lambda episode: -episode.turns)[:4]
    played = [(list(episode.messages), tools[episode.task_id]) for episode in longest] or [
        (EXCHANGE, [])
    ]
    for messages, offered in played:
        if found := rewritten_turn(subject.chat, messages, offered):
            return CheckResult("template", False, f"{found}. {OTHER_MODEL}")
        if found := rewritten_turn(subject.chat, _with_reasoning(messages), offered):
            return CheckResult(
                "template", False, f"where the model reasons in <think>: {found}. {OTHER_MODEL}"
            )
    turns = max(sum(message.role == "assistant" for message in messages) for messages, _ in played)
    return CheckResult(
        "template", True, f"{len(played)} conversations of up to {turns} turns are only appended to"
    )


def _with_reasoning(messages: Sequence[Message]) -> list[Message]:
    """The same conversation by a model that thinks aloud, which many templates drop from history."""
    thought = "<think>\nhm\n</think>\n\n"
    return [
        replace(m, content=thought + m.content) if m.role == "assistant" else m for m in messages
    ]


def rewritten_turn(chat: Chat, messages: Sequence[Message], tools: Any) -> str:
    """Where a fresh rendering of a conversation differs from what was sampled and observed; empty where it never does."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    ids = chat.open(messages[: answers[0]], tools)
    for turn, (index, following) in enumerate(
        zip(answers, [*answers[1:], len(messages)], strict=True), 1
    ):
        new = messages[index + 1 : following]
        if not new:
            break
        ids = [*ids, *chat.answer(messages[index].content)]
        try:
            ids += chat.observe(new, closed=True, history=messages[: index + 1], tools=tools)
        except UsageError as error:
            return str(error).removesuffix(".")
        whole = chat.open(messages[:following], tools)
        if ids != whole and _text(chat, ids) != _text(chat, whole):
            return f"the chat template renders turn {turn} in another way once it is history"
    return ""


def end_of_turn(subject: Subject) -> CheckResult:
    """Every id that should end a turn does, is kept as sampled, and stands in the learner's batch."""
    chat = subject.chat
    missing = sorted(
        (eos_ids(subject.model.generation_config) | eos_ids(chat.tokenizer)) - chat.stop_ids
    )
    problems = [
        f"id {token} ({_text(chat, [token])}) ends a turn by the model's own settings, but not here"
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
            f"{'; '.join(problems[:3])}. A model that is not taught to stop never does",
        )
    return CheckResult("end_of_turn", True, f"{names}: sampled, kept and trained")


def _is_trained(chat: Chat, stop_id: int) -> bool:
    """Whether a turn that samples this id ends with it, and the learner's batch asks for it."""
    track = Track(chat.open([Message("user", "x")]), 0, 0)
    turn = Turn(track, 1.0, max_new_tokens=8)
    other = next(token for token in range(len(chat.stop_ids) + 1) if token not in chat.stop_ids)
    reasons = [turn.take(token, -1.0, chat.stop_ids, 10**6) for token in (other, stop_id)]
    trace = TokenTrace(tuple(track.ids), tuple(track.mask), tuple(track.logprobs))
    return reasons == [None, "stop"] and trained_ids(trace)[stop_id] == 1


def _untrained_turn(chat: Chat, episode: Episode) -> str:
    """Empty where every answer of a demonstration has its end in the batch."""
    assert episode.tokens is not None
    ends = sum(
        count for token, count in trained_ids(episode.tokens).items() if token in chat.stop_ids
    )
    if ends >= episode.turns:
        return ""
    return (
        f"{episode.task_id}: {episode.turns} turns of the oracle, {ends} of their ends in the batch"
    )


def trained_ids(trace: TokenTrace) -> Counter[int]:
    """Id -> how often the learner's batch trains it."""
    sample = Sample.from_trace(trace, advantage=1.0)
    if not sample.num_actions:
        return Counter()
    batch = tree_batch([sample])
    return Counter(batch.score_ids[batch.entry_nodes].tolist())


def context(subject: Subject) -> CheckResult:
    """The oracle's whole way fits: each answer into max_new_tokens, the dialogue into max_context."""
    traces = {episode.task_id: episode.tokens for episode in subject.demos if episode.tokens}
    if not traces:
        return CheckResult("context", True, "unknown, for want of an oracle", warning=True)
    config = subject.config
    whole = {task: len(trace.token_ids) for task, trace in traces.items()}
    answer = {task: max(answer_lengths(trace), default=0) for task, trace in traces.items()}
    offenders = [
        f"{task}: {whole[task]} tokens, its longest answer {answer[task]}"
        for task in sorted(traces, key=lambda task: -whole[task])
        if whole[task] > config.max_context or answer[task] > config.max_new_tokens
    ]
    most = max(whole.values())
    longest = max(answer.values())
    limits = f"max_context is {config.max_context}, max_new_tokens {config.max_new_tokens}"
    needed = f"train.max_context={max(most, config.max_context)} train.max_new_tokens={max(longest, config.max_new_tokens)}"
    passed = (
        f"the oracle's longest episode has {most} tokens, its longest answer {longest}; {limits}"
    )
    return verdict(
        "context",
        offenders,
        len(traces),
        passed=passed,
        way_out=f"{limits}: set {needed}, or train easier levels",
    )


def answer_lengths(trace: TokenTrace) -> list[int]:
    """Tokens of each of a dialogue's sampled turns."""
    return [len(list(run)) for sampled, run in groupby(trace.loss_mask) if sampled]


def _tools(subject: Subject, task: Any) -> list[dict[str, Any]]:
    """What the chat template is given for a task, as `ToolEnv.reset` tells it."""
    in_template = subject.spec.prompt.tools == "template"
    return to_openai(list(subject.world.tools_of(task).values())) if in_template else []


def _text(chat: Chat, ids: Sequence[int]) -> str:
    return chat.tokenizer.decode(list(ids), skip_special_tokens=False)
