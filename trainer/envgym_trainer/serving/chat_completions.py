"""`POST /v1/chat/completions` of OpenAI's API.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from envgym_trainer.serving.answers import AnswerReader, DeltaStream
from envgym_trainer.serving.api_errors import context_exceeded
from envgym_trainer.serving.chat_request import ChatRequest, read_chat_request, sampling_of
from envgym_trainer.serving.forced_calls import forced_call
from envgym_trainer.serving.generation import Generation, SampledSequence, SamplingPlan
from envgym_trainer.serving.served_model import ServedModel


class ChatCompletion:
    """One chat request, rendered and checked, but not yet started.

    Args:
        model: Model that answers.
        plain: JSON object of the request.

    Raises:
        ApiError: If the request is wrong, or its prompt leaves no room for an answer.
    """

    def __init__(self, model: ServedModel, plain: dict[str, Any]):
        self._model = model
        self.request = read_chat_request(plain, model)
        self._plan = _plan(self.request, model)
        self._reader = AnswerReader(
            model.chat, self.request.callable_tools, self.request.fields.parallel_tool_calls
        )
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    @property
    def is_streamed(self) -> bool:
        return self.request.fields.stream

    def start(self) -> Generation:
        """Start to sample."""
        return Generation(self._model, self._plan, is_streamed=self.is_streamed)

    def response(self, generation: Generation) -> dict[str, Any]:
        """Return the response to a request that is not streamed."""
        body = self._head("chat.completion")
        body["choices"] = [self._choice(sequence) for sequence in generation.sequences]
        if self.request.fields.return_token_ids:
            body["prompt_token_ids"] = self._plan.prompts[0]
        return body | {"usage": usage(generation.sequences)}

    async def chunks(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a streamed response."""
        fields = self.request.fields
        include_usage = fields.stream_options is not None and fields.stream_options.include_usage
        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        streams = [DeltaStream(self._reader) for _ in generation.sequences]
        for index in range(len(streams)):
            yield self._chunk(index, {"role": "assistant", "content": ""}) | extra
        async for piece in generation.pieces():
            stream = streams[piece.index]
            for delta in stream.push(piece.text):
                yield self._chunk(piece.index, delta) | extra
            if piece.token is not None:
                if fields.logprobs:
                    logprobs = self._logprobs([piece.token], [piece.logprob])
                    yield self._chunk(piece.index, {}, logprobs=logprobs) | extra
                continue
            for delta in stream.finish():
                yield self._chunk(piece.index, delta) | extra
            reason = generation.sequences[piece.index].finish_reason
            yield (
                self._chunk(piece.index, {}, reason=_reason(reason, has_calls=stream.has_calls))
                | extra
            )
        if include_usage:
            yield self._head("chat.completion.chunk") | {
                "choices": [],
                "usage": usage(generation.sequences),
            }

    def _choice(self, sequence: SampledSequence) -> dict[str, Any]:
        message = self._reader.read(sequence.text)
        choice: dict[str, Any] = {
            "index": sequence.index,
            "message": message.to_dict(),
            "logprobs": None,
            "finish_reason": _reason(sequence.finish_reason, has_calls=bool(message.calls)),
        }
        if self.request.fields.logprobs:
            choice["logprobs"] = self._logprobs(sequence.tokens, sequence.logprobs)
        if self.request.fields.return_token_ids:
            choice["token_ids"] = list(sequence.tokens)
        return choice

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model.name,
            "system_fingerprint": None,
        }

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
        content = [
            {
                "token": (text := self._model.raw.decode([token])),
                "logprob": logprob,
                "bytes": list(text.encode()),
                "top_logprobs": [],
            }
            for token, logprob in zip(tokens, logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}


def usage(sequences: Sequence[SampledSequence]) -> dict[str, Any]:
    """Return the token counts of a request. A prompt counts once for all of its sequences."""
    prompts = {id(sequence.prompt): len(sequence.prompt) for sequence in sequences}
    prompt, completion = (
        sum(prompts.values()),
        sum(len(sequence.tokens) for sequence in sequences),
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": max(each.cached for each in sequences)},
    }


def _plan(request: ChatRequest, model: ServedModel) -> SamplingPlan:
    fields = request.fields
    ids = model.chat.render(request.messages, request.tools)
    if len(ids) >= model.engine.max_context:
        raise context_exceeded("messages", len(ids), model.engine.max_context)
    max_tokens = fields.max_completion_tokens or fields.max_tokens
    return SamplingPlan(
        [ids],
        sampling_of(fields, max_tokens, model),
        fields.n,
        fields.seed,
        request.stops,
        forced_call(model.chat, request.tools, request.forced)
        if request.choice == "required"
        else None,
        model.heads.shared(ids, request.messages, request.tools),
    )


def _reason(reason: str, *, has_calls: bool) -> str:
    return "tool_calls" if has_calls and reason == "stop" else reason
