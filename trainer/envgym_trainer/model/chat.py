"""Convert messages to token ids and back. Sampled ids are never rendered again.

A conversation is the `open` ids, then for each turn the sampled ids and the `observe` ids. ChatML
models (SmolLM2, Qwen) use our ChatML with tools (`chatml.py`), other families their own template
(`own_template.py`). Text of users and tools cannot forge a turn: the spelling of a special token
in it becomes ordinary tokens. Not supported: images, and templates that rewrite earlier turns (the
error names the turn).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from envgym.dialects import DEFAULT_DIALECTS, parse, without_reasoning
from envgym.errors import UsageError, did_you_mean
from envgym.messages import Message
from envgym_trainer.model.chatml import JINJA, ChatML
from envgym_trainer.model.own_template import OwnTemplate
from envgym_trainer.model.rendering import Answer
from envgym_trainer.model.rendering.openai_form import text_messages

TemplateName = Literal["auto", "chatml", "model"]

Tools = Sequence[dict[str, Any]]
"""Tool schemas in OpenAI's function format."""


class Chat:
    """Converter between messages and token ids of one tokenizer. Safe to share between threads.

    Args:
        tokenizer: Hugging Face tokenizer. It is copied, so its settings are not changed.
        template: `chatml` (ours), `model` (the tokenizer's template), or `auto`: ChatML if the
            tokenizer has both ChatML tokens.
        model: All end-of-sequence ids of its generation config also end a turn.
        dialects: Syntaxes of tool calls. Calls are written in the first one.

    Raises:
        UsageError: If the tokenizer lacks tokens that the template needs.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: TemplateName = "auto",
        *,
        model: Any = None,
        dialects: Sequence[str] = DEFAULT_DIALECTS,
    ):
        self.dialects = tuple(dialects)
        self.tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self.template = _choose(template, tokenizer)
        style = ChatML if self.template == "chatml" else OwnTemplate
        self._style = style(self.tokenizer, self._encode)
        self.stop_ids = frozenset(
            {self._style.end_id}
            | eos_ids(self.tokenizer)
            | eos_ids(getattr(model, "generation_config", None))
        )
        """Ids that end a turn. They are sampled and trained."""

    def open(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Return the ids of the prompt, up to and including the generation prompt."""
        return self._style.open(messages, tools)

    def shared(self, messages: Sequence[Message], tools: Tools = ()) -> int:
        """Return how many of the first `open` ids belong to the system message."""
        return self._style.shared(messages, tools)

    def observe(
        self,
        messages: Sequence[Message],
        *,
        closed: bool,
        history: Sequence[Message] = (),
        tools: Tools = (),
    ) -> list[int]:
        """Return the ids after a sampled turn: missing end token, new messages, generation prompt.

        Args:
            messages: New messages of the environment.
            closed: Whether the sampled ids end with a stop id.
            history: All messages before these. `template="model"` uses them to check that its
                template only appends.
            tools: Tools of the conversation.

        Raises:
            UsageError: If the model's template rewrites an earlier turn.
        """
        return self._style.observe(messages, closed=closed, history=history, tools=tools)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Tools = ()) -> list[int]:
        """Return the ids of a conversation in OpenAI's form, with the generation prompt.

        Args:
            messages: Messages with `role`, `content`, and, if any, `tool_calls`, `tool_call_id`
                and `name`. Arguments of calls may be dicts or JSON text.
            tools: Tools of the request.

        Raises:
            UsageError: If the model's template refuses the conversation.
        """
        return self.open(text_messages(messages, self.dialects[0]), tools)

    def parse(self, text: str, known: Iterable[str] = ()) -> Answer:
        """Return reasoning, content and tool calls of an answer.

        Args:
            text: Answer as `decode` returns it.
            known: Names of the tools.
        """
        found = parse(text, self.dialects, known=known)
        answer = without_reasoning(text)
        reasoning = text.removesuffix(answer).strip().removeprefix("<think>")
        return Answer(
            reasoning.removesuffix("</think>").strip(),
            answer if found.problem else found.content,
            found.calls,
            found.problem,
        )

    def answer(self, text: str) -> list[int]:
        """Return the ids of an assistant turn, with its end token. Only for demonstrations."""
        return [*self._encode(text), self._style.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens and without a final stop id."""
        ids = list(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)
        with self._lock:
            return self.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

    @cached_property
    def jinja(self) -> str:
        """Jinja template with which a server renders the same ids. It is saved with the adapter."""
        return JINJA.read_text() if self.template == "chatml" else self.tokenizer.chat_template

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of a text. If `special` is True, the text may contain special tokens."""
        with self._lock:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)[
                "input_ids"
            ]


def eos_ids(source: Any) -> set[int]:
    """Return the end-of-sequence ids of a tokenizer or a generation config."""
    ids = getattr(source, "eos_token_id", None)
    return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)


def _choose(template: str, tokenizer: Any) -> Literal["chatml", "model"]:
    has_chatml = {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys()
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
    if not tokenizer.chat_template:
        raise UsageError(
            "this tokenizer has neither ChatML tokens nor a chat template. Use an instruct (chat) "
            "model."
        )
    return "model"
