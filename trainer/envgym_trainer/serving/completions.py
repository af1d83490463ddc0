"""`POST /v1/completions` of OpenAI's API, with token ids in and out as in vLLM.

Source: https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import Field

from envgym_trainer.serving.api_errors import context_exceeded, invalid, unsupported
from envgym_trainer.serving.chat_completions import usage
from envgym_trainer.serving.chat_request import (
    NEUTRAL_SAMPLING,
    SamplingFields,
    check_common,
    read_stops,
    sampling_of,
)
from envgym_trainer.serving.generation import Generation, SampledSequence, SamplingPlan
from envgym_trainer.serving.json_body import read_body
from envgym_trainer.serving.raw_text import RawText
from envgym_trainer.serving.served_model import ServedModel

MAX_TOKENS = 16
"""Default of `max_tokens`, as in OpenAI's API."""
NEUTRAL: dict[str, tuple] = NEUTRAL_SAMPLING | {"suffix": ("",), "add_special_tokens": (True,)}


class CompletionFields(SamplingFields):
    """Fields of a completion request."""

    prompt: Any
    """Text, token ids, or a list of several of either."""
    max_tokens: int = Field(MAX_TOKENS, ge=1)
    logprobs: int | None = Field(None, ge=0)
    echo: bool = False
    """Begin the text of each answer with its prompt."""


class TextCompletion:
    """One completion request, checked but not yet started.

    Args:
        model: Model that answers.
        plain: JSON object of the request.

    Raises:
        ApiError: If the request is wrong, or a prompt leaves no room for an answer.
    """

    def __init__(self, model: ServedModel, plain: dict[str, Any]):
        self._model = model
        self._fields = fields = read_body(CompletionFields, plain, NEUTRAL)
        check_common(fields, model)
        if fields.logprobs:
            raise unsupported("logprobs", "only 0 is supported: the sampled token's logprob.")
        if fields.echo and fields.logprobs is not None:
            raise unsupported("echo", "logprobs of the prompt are not supported.")
        prompts = _read_prompts(fields.prompt, model.raw)
        if len(prompts) * fields.n > model.limits.max_sequences:
            raise invalid(f"at most {model.limits.max_sequences} sequences per request.", "prompt")
        for ids in prompts:
            if len(ids) >= model.engine.max_context:
                raise context_exceeded("prompt", len(ids), model.engine.max_context)
        self._plan = SamplingPlan(
            prompts,
            sampling_of(fields, fields.max_tokens, model),
            fields.n,
            fields.seed,
            read_stops(fields.stop),
        )
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    @property
    def is_streamed(self) -> bool:
        return self._fields.stream

    def start(self) -> Generation:
        """Start to sample."""
        return Generation(self._model, self._plan, is_streamed=self.is_streamed)

    def response(self, generation: Generation) -> dict[str, Any]:
        """Return the response to a request that is not streamed."""
        choices = [self._choice(sequence) for sequence in generation.sequences]
        return self._head() | {"choices": choices, "usage": usage(generation.sequences)}

    async def chunks(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a streamed response."""
        fields = self._fields
        include_usage = fields.stream_options is not None and fields.stream_options.include_usage
        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        for sequence in generation.sequences if fields.echo else ():
            text = self._prompt_text(sequence)
            yield self._head() | {"choices": [_empty(sequence.index, text)]} | extra
        async for piece in generation.pieces():
            choice = _empty(piece.index, piece.text)
            if piece.token is None:
                choice["finish_reason"] = generation.sequences[piece.index].finish_reason
            else:
                choice |= self._tokens([piece.token], [piece.logprob])
            yield self._head() | {"choices": [choice]} | extra
        if include_usage:
            yield self._head() | {"choices": [], "usage": usage(generation.sequences)}

    def _choice(self, sequence: SampledSequence) -> dict[str, Any]:
        echoed = self._prompt_text(sequence) if self._fields.echo else ""
        choice = _empty(sequence.index, echoed + sequence.text)
        choice["finish_reason"] = sequence.finish_reason
        if self._fields.return_token_ids:
            choice["prompt_token_ids"] = sequence.prompt
        return choice | self._tokens(sequence.tokens, sequence.logprobs)

    def _prompt_text(self, sequence: SampledSequence) -> str:
        return self._model.raw.decode(sequence.prompt)

    def _tokens(self, tokens: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
        """Return the fields of a choice with ids and logprobs, if the request wants them."""
        found: dict[str, Any] = {}
        if self._fields.return_token_ids:
            found["token_ids"] = list(tokens)
        if self._fields.logprobs is not None:
            texts = [self._model.raw.decode([token]) for token in tokens]
            offsets = list(itertools.accumulate(map(len, texts), initial=0))[:-1]
            found["logprobs"] = {
                "tokens": texts,
                "token_logprobs": list(logprobs),
                "top_logprobs": None,
                "text_offset": offsets,
            }
        return found

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model.name,
            "system_fingerprint": None,
        }


def _empty(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}


def _read_prompts(given: Any, raw: RawText) -> list[list[int]]:
    """Return the ids of each prompt. Special tokens in a text are read as such."""
    if isinstance(given, str):
        several = [given]
    elif isinstance(given, list) and given and not _is_ids(given):
        several = given
    else:
        several = [given]
    return [
        _read_prompt(each, raw, "prompt" if len(several) == 1 else f"prompt[{place}]")
        for place, each in enumerate(several)
    ]


def _read_prompt(given: Any, raw: RawText, param: str) -> list[int]:
    if isinstance(given, str):
        ids = raw.encode(given)
    elif _is_ids(given):
        ids = given
    else:
        raise invalid(f"'{param}' must be a text or a list of token ids.", param, "invalid_type")
    if not ids:
        raise invalid(f"'{param}' is empty.", param)
    if not all(0 <= each < raw.vocabulary for each in ids):
        raise invalid(f"'{param}' has an id that is not from 0 to {raw.vocabulary - 1}.", param)
    return list(ids)


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and all(type(each) is int for each in given)
