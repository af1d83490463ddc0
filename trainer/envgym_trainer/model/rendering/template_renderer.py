"""Render conversations with a model's own chat template.

Such a template renders whole conversations, so new ids are the difference of two renderings, and
sampled ids are never rendered again. If a longer rendering changes an earlier turn (some templates
drop earlier reasoning), the template rewrites its past: the caller may start a new stream of tokens
from the rewritten prompt, or keep the past and only append.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from envgym.dialects.reasoning import PAIRS
from envgym.errors import UsageError
from envgym.messages import Message
from envgym_trainer.model.rendering import ChatMessage, Extension, Tools
from envgym_trainer.model.rendering.adapters import (
    PROBE_CALL,
    PROBE_RESULT,
    PROBE_TOOL,
    adapt,
    native_adapters,
    results_as_user_turns,
    text_adapters,
)
from envgym_trainer.model.rendering.control_tokens import ControlTokens, Masks

_CLOSING = dict(PAIRS)
_ENDS_OPEN = re.compile(rf"(?:{'|'.join(re.escape(opening) for opening, _ in PAIRS)})\s*\Z")

CALL_ENDS = ("<|call|>", "<|eom_id|>", "<|observation|>", "<|tool_response>")
"""Tokens that end a turn with calls only: gpt-oss, Llama 3, GLM, Gemma 4."""

ToMessages = Callable[[Sequence[Message], Tools], list[ChatMessage]]
"""Function from envgym's messages, and the tools, to messages in OpenAI's form."""


class TemplateRenderer:
    """Renderer with a chat template. Not safe to share between threads.

    Args:
        tokenizer: Hugging Face tokenizer.
        tokens: Its control tokens.
        template: Jinja template.
        to_messages: Converts messages of an episode for the template.
        is_native: Whether the template itself renders tools, calls and results.
        variables: Further variables of the template, such as `enable_thinking`.
        stops: Spellings of ids that end a turn, from the tokenizer and the model.

    Raises:
        UsageError: If the template cannot render such conversations, or ends an assistant turn
            without a control token.
    """

    def __init__(
        self,
        tokenizer: Any,
        tokens: ControlTokens,
        template: str,
        *,
        to_messages: ToMessages,
        is_native: bool,
        variables: Mapping[str, Any] | None = None,
        stops: Sequence[str] = (),
    ):
        self._tokenizer = tokenizer
        self._tokens = tokens
        self.template = template
        self._to_messages = to_messages
        self._variables = dict(variables or {})
        self._is_native = is_native
        if not is_native:
            adapters: tuple[str, ...] | None = text_adapters(self.render_as_is)
        elif (adapters := native_adapters(self.render_as_is)) is None:
            raise UsageError(
                "the model's chat template does not render tools, calls and results, so "
                "prompt.rendering=native is not possible. Set prompt.rendering=text."
            )
        self.adapters: tuple[str, ...] = adapters
        """Names of the adapters in force."""
        self.end = self._end_of_answer(stops)
        """Spelling of the control token that ends a plain answer."""
        self.ends: tuple[str, ...] = tuple(dict.fromkeys([self.end, *stops]))
        """Spellings of all control tokens that end a turn."""
        self.ends = (*self.ends, *(self._ends_of_calls() if is_native else ()))
        self.opened = self._opened_reasoning()
        """Mark of reasoning with which the generation prompt ends, with what follows it, or ""."""

    def open(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        """Return the ids of a prompt, with the generation prompt."""
        return self.render_ids(self._to_messages(messages, tools), tools)

    def render_ids(
        self, messages: Sequence[ChatMessage], tools: Tools, *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Return the ids of a conversation."""
        masks = self._masks(messages, tools)
        return masks.encode(self._render(messages, tools, masks, prompt=add_generation_prompt))

    def shared(self, messages: Sequence[Message], tools: Tools) -> int:
        """Return the length of the common prefix of prompts with this system message."""
        if not messages or messages[0].role != "system":
            return 0
        one, other = (self.open([messages[0], Message("user", text)], tools) for text in ("0", "x"))
        return len(_common([one, other, self.open(messages, tools)]))

    def extend(
        self,
        history: Sequence[Message],
        new: Sequence[Message],
        tools: Tools,
        *,
        closed: bool,
    ) -> Extension:
        """Return the ids that follow a sampled turn.

        Args:
            history: All earlier messages; the last one is the sampled turn.
            new: Messages of the environment.
            tools: Tools of the conversation.
            closed: Whether the sampled ids end with a stop id.
        """
        refusal: UsageError | None = None
        for whole in self._forms([*history, *new], tools):
            try:
                return self._extend(whole, len(history), tools, closed=closed)
            except UsageError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def check_kept(self) -> None:
        """Check that reasoning of earlier turns stays in later prompts.

        Raises:
            UsageError: If the template still drops it.
        """
        user = Message("user", "x")
        thought = Message("assistant", "<think>\nzqthought\n</think>\n\nzqanswer")
        if self.extend([user, thought], [user], (), closed=True).rewritten:
            raise UsageError(
                "the model's chat template drops the reasoning of earlier turns in a way that "
                "cannot be changed, so a server would not render the trained prompt. Set "
                "prompt.keep_reasoning=false."
            )

    def _forms(self, messages: Sequence[Message], tools: Tools) -> Iterator[Sequence[ChatMessage]]:
        """Yield forms of a conversation, the usual one first.

        A template may refuse what a model has sampled, such as two calls in one turn, or a result
        without a call. Then calls are text, and results are messages of the user if necessary.
        """
        yield self._to_messages(messages, tools)
        if self._is_native:
            plain: list[ChatMessage] = [dict(message.to_dict()) for message in messages]
            yield plain
            yield results_as_user_turns(plain)

    def _extend(
        self, whole: Sequence[ChatMessage], count: int, tools: Tools, *, closed: bool
    ) -> Extension:
        past, following = whole[:count], whole[count:]
        other = [
            message | {"content": "1" if message["content"].startswith("0") else "0"}
            for message in following
        ]
        masks = self._masks([*whole, *other], tools)
        after = self._render(whole, tools, masks, prompt=True)
        changed = self._render([*past, *other], tools, masks, prompt=True)
        common = _common([after, changed]) if following else after
        start, end = self._last_end(common)
        tail = masks.encode(after[end:])
        ids = tail if closed else [self._tokens.ids[after[start:end]], *tail]
        if why := self._rewritten(past, tools, masks, after[:start], following):
            return Extension(ids, why, masks.encode(after))
        return Extension(ids)

    def answer_ids(
        self, history: Sequence[Message], answer: ChatMessage, tools: Tools
    ) -> list[int]:
        """Return the ids of an assistant turn with its end, as a demonstration."""
        past = self._to_messages(history, tools)
        masks = self._masks([*past, answer], tools)
        text, end = self._turn(past, answer, tools, masks)
        return [*masks.encode(text), self._tokens.ids[end]]

    def answer_text(self, history: Sequence[Message], answer: ChatMessage, tools: Tools) -> str:
        """Return the rendering of an assistant turn without its end."""
        past = self._to_messages(history, tools)
        masks = self._masks([*past, answer], tools)
        return masks.show(self._turn(past, answer, tools, masks)[0])

    def _turn(
        self, past: Sequence[ChatMessage], answer: ChatMessage, tools: Tools, masks: Masks
    ) -> tuple[str, str]:
        """Return the rendering of an assistant turn and the control token after it.

        Text that the generation prompt writes is left out. If the prompt opens reasoning and the
        answer has none, the turn begins with the end of the reasoning.
        """
        before = self._render(past, tools, masks, prompt=True)
        after = self._render([*past, answer], tools, masks)
        shared = _common([before, after])
        if shared != before:  # do not cut inside of a mark
            last = max(shared.rfind("<"), shared.rfind("["))
            shared = shared if ">" in shared[last:] or "]" in shared[last:] else shared[:last]
        rest = after[len(shared) :]
        closing = ""
        if shared != before and self.opened:
            closing = f"\n{_CLOSING[self.opened.strip()]}\n\n"
        if not any(each in rest for each in self.ends):  # the next turn would end it
            return closing + rest, self.ends[-1] if answer.get("tool_calls") else self.end
        start, end = self._first_end(rest)
        return closing + rest[:start], rest[start:end]

    def render_as_is(
        self, messages: Sequence[ChatMessage], tools: Tools = (), *, prompt: bool = False
    ) -> str:
        """Return a conversation as text, without adapters and masks.

        Raises:
            UsageError: If the template refuses it.
        """
        try:
            return self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=self.template,
                add_generation_prompt=prompt,
                tokenize=False,
                **self._variables,
            )
        except Exception as error:  # templates may raise any exception
            roles = ", ".join(message["role"] for message in messages)
            raise UsageError(
                f"the model's chat template refuses a conversation of {roles}: {error}. Set "
                "prompt.rendering=text, or use another model."
            ) from error

    def _render(
        self,
        messages: Sequence[ChatMessage],
        tools: Tools,
        masks: Masks,
        *,
        prompt: bool = False,
    ) -> str:
        hidden = [
            {key: value if key == "role" else masks.hide(value) for key, value in message.items()}
            for message in adapt(messages, self.adapters)
        ]
        return self.render_as_is(hidden, [masks.hide(tool) for tool in tools], prompt=prompt)

    def _masks(self, messages: Sequence[ChatMessage], tools: Tools) -> Masks:
        contents = [
            [value for key, value in message.items() if key != "role"] for message in messages
        ]
        return Masks(self._tokens, [contents, list(tools)])

    def _rewritten(
        self,
        past: Sequence[ChatMessage],
        tools: Tools,
        masks: Masks,
        kept: str,
        following: Sequence[ChatMessage],
    ) -> str:
        """Return where the template renders its past in another way than before, or ""."""
        turn = sum(message["role"] == "assistant" for message in past)
        if not kept.startswith(self._render(past[:-1], tools, masks, prompt=True)):
            return f"assistant turn {turn}, once it is history"
        if not self._render(past, tools, masks).startswith(kept):
            role = following[0]["role"] if following else "prompt"
            return f"assistant turn {turn}, once a {role} follows"
        return ""

    def _last_end(self, text: str) -> tuple[int, int]:
        """Return start and end of the last control token in a text that ends a turn."""
        found = max(((text.rfind(end), end) for end in self.ends), default=(-1, ""))
        if found[0] < 0:
            raise UsageError(
                "the model's chat template ends an assistant turn without one of "
                f"{', '.join(self.ends)}. Use an instruct (chat) model."
            )
        return found[0], found[0] + len(found[1])

    def _first_end(self, text: str) -> tuple[int, int]:
        """Return start and end of the first control token in a text that ends a turn."""
        found = [(text.index(end), end) for end in self.ends if end in text]
        return (
            (min(found)[0], min(found)[0] + len(min(found)[1])) if found else self._last_end(text)
        )

    def _end_of_answer(self, stops: Sequence[str]) -> str:
        messages: list[ChatMessage] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "zqz"},
            {"role": "user", "content": "zqnext"},
        ]
        text = self.render_as_is(adapt(messages, self.adapters), prompt=True)
        rest = text.rpartition("zqz")[2].partition("zqnext")[0]
        found = self._tokens.pattern.findall(rest)
        if not found:
            raise UsageError(
                "the model's chat template ends an assistant turn without a special token. Use an "
                "instruct (chat) model."
            )
        return next((token for token in found if token in stops), found[0])

    def _ends_of_calls(self) -> list[str]:
        """Return the control token after a turn with calls, if another one than after an answer."""
        user: ChatMessage = {"role": "user", "content": "x"}
        messages = adapt([user, PROBE_CALL, PROBE_RESULT], self.adapters)
        text = self.render_as_is(messages, [PROBE_TOOL], prompt=True)
        between = text.rpartition("zqvalue")[2].partition("zqresult")[0]
        if text.find("zqvalue") > text.find("zqresult") or any(e in between for e in self.ends):
            return []
        found = self._tokens.pattern.findall(between)
        return [token for token in found if token in CALL_ENDS][:1] or found[:1]

    def _opened_reasoning(self) -> str:
        user: ChatMessage = {"role": "user", "content": "x"}
        text = self.render_as_is([user], prompt=True)
        found = _ENDS_OPEN.search(text)
        return found[0] if found else ""


def _common(sequences: Sequence[Any]) -> Any:
    """Return the longest common beginning of texts or lists."""
    low, high = min(sequences), max(sequences)
    count = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), None)
    return low[: min(len(low), len(high)) if count is None else count]
