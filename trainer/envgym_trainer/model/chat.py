"""Convert messages to token ids and back. Sampled ids are never rendered again.

A conversation is the `open` ids, then for each turn the sampled ids and the `observe` ids. With
`native` rendering the model's own chat template writes tools, calls and results. With `text` they
are text of the messages, in our ChatML (`chatml.py`) if the tokenizer has its tokens, else in the
model's template. Text of users and tools cannot forge a turn: the spelling of a control token in
it becomes ordinary tokens. Not supported: images.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from envgym.dialects import (
    DEFAULT_DIALECTS,
    dialect_for_template,
    parse,
    split_reasoning,
    usage_example,
)
from envgym.dialects.known import Tools as KnownTools
from envgym.errors import UsageError, did_you_mean
from envgym.messages import Message, ToolCall
from envgym.tools import Tool, tools_section
from envgym_trainer.model.chatml import END, START, ChatML
from envgym_trainer.model.rendering import Answer, ChatMessage, Extension, Tools, pinned
from envgym_trainer.model.rendering.adapters import PROBE_CALL, PROBE_TOOL
from envgym_trainer.model.rendering.control_tokens import ControlTokens
from envgym_trainer.model.rendering.openai_form import (
    assistant_message,
    normalized_messages,
    plain_messages,
    structured_messages,
    text_messages,
)
from envgym_trainer.model.rendering.served_template import text_template
from envgym_trainer.model.rendering.template_renderer import TemplateRenderer

TemplateName = Literal["auto", "chatml", "model"]
RenderingName = Literal["native", "text"]


class Chat:
    """Converter between messages and token ids of one tokenizer. Safe to share between threads.

    Args:
        tokenizer: Hugging Face tokenizer. It is copied, so its settings are not changed.
        template: Template of `text` rendering: `chatml` (ours), `model` (the tokenizer's), or
            `auto`: ChatML if the tokenizer has both ChatML tokens. `native` uses the tokenizer's.
        model: All end-of-sequence ids of its generation config also end a turn.
        rendering: Whether the template writes tools and calls (`native`), or the messages hold
            them as text (`text`).
        dialects: Syntaxes of tool calls. Calls are written in the first one.
        keep_reasoning: Append to a past that the template would write without its reasoning.
        variables: Variables of the template, such as `{"enable_thinking": False}`.
        clock: Date that the template writes, if it writes one. Default: today.

    Raises:
        UsageError: If the tokenizer lacks tokens that the template needs, or its template cannot
            render such conversations.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: TemplateName = "auto",
        *,
        model: Any = None,
        rendering: RenderingName = "text",
        dialects: Sequence[str] = DEFAULT_DIALECTS,
        keep_reasoning: bool = False,
        variables: Mapping[str, Any] | None = None,
        clock: datetime | None = None,
    ):
        self.tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.RLock()
        self.rendering: RenderingName = rendering
        self.dialects = tuple(dialects)
        self.keep_reasoning = keep_reasoning
        self.variables = dict(variables or {})
        self._clock = clock
        self.template: Literal["chatml", "model"] = (
            _own(tokenizer) if rendering == "native" else _choose(template, tokenizer)
        )
        self.control_tokens = ControlTokens(self.tokenizer)
        ends = eos_ids(self.tokenizer) | eos_ids(getattr(model, "generation_config", None))
        self._style = self._renderer(ends)
        self._end_id: int = self.control_tokens.ids[self._style.end]
        self.stop_ids = frozenset(ends | {self.control_tokens.ids[end] for end in self._style.ends})
        """Ids that end a turn. They are sampled and trained."""
        if isinstance(self._style, TemplateRenderer) and keep_reasoning:
            self._style.check_kept()
        self.call_dialect = self.dialects[0]
        """Dialect in which the model is to write calls."""
        if isinstance(self._style, TemplateRenderer) and rendering == "native":
            self.call_dialect = self._native_dialect(self._style)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters between the conversation and the template."""
        names = list(self._style.adapters)
        if (
            self.template == "model"
            and self._clock
            and pinned.has_date(self.tokenizer.chat_template)
        ):
            names.append("pinned_date")
        names += [f"{name}={value}" for name, value in self.variables.items()]
        return (*names, "keep_reasoning") if self.keep_reasoning else tuple(names)

    def describe(self) -> dict[str, Any]:
        """Return the rendering for records: choice, template and its hash, adapters, dialects."""
        return {
            "rendering": self.rendering,
            "template": self.template,
            "template_sha256": hashlib.sha256(self.jinja.encode()).hexdigest(),
            "adapters": list(self.adapters),
            "dialects": list(self.dialects),
        }

    def open(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Return the ids of the prompt, up to and including the generation prompt.

        Args:
            messages: Opening messages.
            tools: Tools of the conversation. With `text` rendering they are listed in the system
                message, as an environment does.
        """
        with self._lock:
            return self._style.open(*self._as_text(messages, tools))

    def shared(self, messages: Sequence[Message], tools: Tools = ()) -> int:
        """Return how many of the first `open` ids belong to the system message."""
        with self._lock:
            return self._style.shared(*self._as_text(messages, tools))

    def extend(
        self,
        history: Sequence[Message],
        new: Sequence[Message],
        tools: Tools = (),
        *,
        closed: bool,
    ) -> Extension:
        """Return the ids after a sampled turn: missing end token, new messages, generation prompt.

        Args:
            history: All earlier messages; the last one is the sampled turn.
            new: New messages of the environment.
            tools: Tools of the conversation.
            closed: Whether the sampled ids end with a stop id.

        Returns:
            The ids, and how the template rewrites an earlier turn, if it does.
        """
        past, offered = self._as_text(history, tools)
        with self._lock:
            found = self._style.extend(past, new, offered, closed=closed)
        return Extension(found.ids) if self.keep_reasoning else found

    def observe(
        self,
        messages: Sequence[Message],
        *,
        closed: bool,
        history: Sequence[Message] = (),
        tools: Tools = (),
    ) -> list[int]:
        """Return the ids after a sampled turn; see `extend`.

        Raises:
            UsageError: If the model's template rewrites an earlier turn.
        """
        past = list(history) or [Message("user", "x"), Message("assistant", "x")]
        found = self.extend(past, messages, tools, closed=closed)
        if found.rewritten:
            raise UsageError(
                f"the model's chat template rewrites earlier text at {found.rewritten}, so tokens "
                "already sampled would change. Set prompt.keep_reasoning=true, or take a model "
                "whose template only appends."
            )
        return found.ids

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Tools = ()) -> list[int]:
        """Return the ids of a conversation in OpenAI's form, with the generation prompt.

        Args:
            messages: Messages with `role`, `content`, and, if any, `tool_calls`, `tool_call_id`,
                `name` and `reasoning_content`. Arguments of calls may be dicts or JSON text.
            tools: Tools of the request.

        Raises:
            UsageError: If the model's template refuses the conversation.
        """
        if self.rendering == "text":
            return self.open(text_messages(messages, self.dialects[0]), tools)
        with self._lock:
            return self._style.render_ids(normalized_messages(messages), tools)

    def parse(self, text: str, known: KnownTools = ()) -> Answer:
        """Return reasoning, content and tool calls of an answer.

        Args:
            text: Answer as `decode` returns it.
            known: Tools: names, or schemas in OpenAI's format.
        """
        found = parse(text, self.dialects, known=known)
        if not found.problem:
            return Answer(found.reasoning, found.content, found.calls)
        return Answer(*split_reasoning(text), (), found.problem)

    def answer(
        self,
        text: str,
        call: ToolCall | None = None,
        *,
        history: Sequence[Message] = (),
        tools: Tools = (),
    ) -> list[int]:
        """Return the ids of an assistant turn, with its end token. Only for demonstrations.

        Args:
            text: Text of the turn: an answer, or the call as text.
            call: Call of the turn. With `native` rendering the template writes it.
            history: All earlier messages.
            tools: Tools of the conversation.
        """
        with self._lock:
            if self.rendering == "text" or not history:
                return [*self.control_tokens.encode_text(text), self._end_id]
            assert isinstance(self._style, TemplateRenderer)
            answer = Answer(content="" if call else text, calls=(call,) if call else ())
            return self._style.answer_ids(history, assistant_message(answer), tools)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a turn, without stop, padding and start tokens around it.

        Marks of calls and reasoning are kept, also if they are special tokens. If the generation
        prompt opens reasoning, the text begins with the opening mark.
        """
        ids = list(ids)
        around = self.stop_ids | {self.tokenizer.pad_token_id, self.tokenizer.bos_token_id}
        while ids and ids[-1] in around:
            ids.pop()
        while ids and ids[0] in (self.tokenizer.bos_token_id, self.tokenizer.pad_token_id):
            ids.pop(0)
        with self._lock:
            text = self.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        opened = self._style.opened
        return text if not opened or text.startswith(opened.strip()) else opened + text

    @cached_property
    def jinja(self) -> str:
        """Jinja template with which a server renders the same ids. It is saved with the adapter."""
        template = pinned.with_variables(self._style.template, self.variables)
        if self.rendering == "native":
            return template
        return text_template(template, dialect=self.dialects[0], adapters=self._style.adapters)

    def _renderer(self, ends: set[int]) -> ChatML | TemplateRenderer:
        if self.template == "chatml":
            return ChatML(self.tokenizer, self.control_tokens)
        stops = [token for token, index in self.control_tokens.ids.items() if index in ends]
        own = pinned.with_date(self.tokenizer.chat_template, self._clock)
        return TemplateRenderer(
            self.tokenizer,
            self.control_tokens,
            pinned.with_reasoning(own) if self.keep_reasoning else own,
            to_messages=self._to_messages,
            is_native=self.rendering == "native",
            variables=self.variables,
            stops=stops,
        )

    def _to_messages(self, messages: Sequence[Message], tools: Tools) -> list[ChatMessage]:
        if self.rendering == "text":
            return plain_messages(messages)
        return structured_messages(messages, lambda text: self.parse(text, tools))

    def _as_text(
        self, messages: Sequence[Message], tools: Tools
    ) -> tuple[Sequence[Message], Tools]:
        """Return messages and tools for the renderer: with `text`, tools are in the messages."""
        if self.rendering == "native" or not tools:
            return messages, tools
        listed = tools_section(
            [Tool.from_schema(tool) for tool in tools], usage_example(self.dialects[0])
        )
        has_system = bool(messages) and messages[0].role == "system"
        system = messages[0].content if has_system else ""
        return [Message("system", system + listed), *messages[has_system:]], ()

    def _native_dialect(self, style: TemplateRenderer) -> str:
        """Return the first dialect that reads the calls which the template writes."""
        for name in self.dialects:
            if reads_calls(style, name):
                return name
        family = dialect_for_template(style.template)
        hint = f" Put {family} into prompt.dialects, or set" if family else " Set"
        raise UsageError(
            "no dialect of prompt.dialects reads the tool calls that the model's chat template "
            f"writes ({', '.join(self.dialects)}).{hint} prompt.rendering=text."
        )


def reads_calls(renderer: TemplateRenderer, dialect: str) -> bool:
    """Return whether a dialect reads the call that a template writes."""
    text = renderer.answer_text([Message("user", "x")], PROBE_CALL, [PROBE_TOOL])
    found = parse(renderer.opened + text, [dialect], known=[PROBE_TOOL])
    wanted = PROBE_CALL["tool_calls"][0]["function"]
    return [call.to_dict() for call in found.calls] == [wanted]


def eos_ids(source: Any) -> set[int]:
    """Return the end-of-sequence ids of a tokenizer or a generation config."""
    ids = getattr(source, "eos_token_id", None)
    return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)


def _choose(template: str, tokenizer: Any) -> Literal["chatml", "model"]:
    has_chatml = {START, END} <= tokenizer.get_vocab().keys()
    if template not in ("auto", "chatml", "model"):
        hint = did_you_mean(template, ("auto", "chatml", "model")) or "."
        raise UsageError(f"chat template '{template}' is unknown{hint} Use auto, chatml or model.")
    if template == "chatml" and not has_chatml:
        raise UsageError(
            "chat template 'chatml' needs the tokens <|im_start|> and <|im_end|>, which this "
            "tokenizer lacks. Use 'model'."
        )
    if template == "chatml" or (template == "auto" and has_chatml):
        return "chatml"
    return _own(tokenizer)


def _own(tokenizer: Any) -> Literal["model"]:
    if not tokenizer.chat_template:
        raise UsageError(
            "this tokenizer has neither ChatML tokens nor a chat template. Use an instruct (chat) "
            "model."
        )
    return "model"
