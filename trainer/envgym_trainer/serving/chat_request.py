"""Fields of `POST /v1/chat/completions`.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from envgym.errors import did_you_mean
from envgym_trainer.inference import SamplingSettings
from envgym_trainer.serving.api_errors import invalid, unsupported
from envgym_trainer.serving.json_body import Body, missing, read_body
from envgym_trainer.serving.messages import read_messages, read_tools
from envgym_trainer.serving.served_model import ServedModel

MAX_STOPS = 4
MIN_TEMPERATURE = 0.01
"""Lower temperatures overflow."""
MAX_TEMPERATURE = 100.0
NEUTRAL_SAMPLING: dict[str, tuple] = {
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "bad_words": ([],),
    "best_of": (1,),
    "user": (),
    "metadata": (),
    "safety_identifier": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "cache_salt": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Fields of both APIs that are not implemented, with their values without effect; see `read_body`.
`cache_salt` has none because the weights never change."""
NEUTRAL: dict[str, tuple] = NEUTRAL_SAMPLING | {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none",),
    "verbosity": ("medium",),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "skip_special_tokens": (True,),
}


class StreamOptions(Body):
    include_usage: bool = False
    """Send a last chunk with the token counts."""
    include_obfuscation: bool = False
    """Accepted without effect."""


class SamplingFields(Body):
    """Fields of both APIs."""

    model: str
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature. 0 is greedy."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    n: int = Field(1, ge=1)
    """Number of answers."""
    stop: Any = None
    """A stop string, or a list of them."""
    stop_token_ids: list[int] = Field(default_factory=list, max_length=1000)
    """Further token ids that end an answer (vLLM)."""
    ignore_eos: bool = False
    """Only `stop_token_ids` end an answer, not the end tokens of the chat template (vLLM)."""
    return_token_ids: bool = False
    """Return the token ids of prompt and answer (vLLM)."""
    stream: bool = False
    stream_options: StreamOptions | None = None


class ChatFields(SamplingFields):
    """Fields of a chat request."""

    messages: list[Any]
    tools: list[Any] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Checked chat request."""

    fields: ChatFields
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    choice: Literal["auto", "none", "required"]
    """Whether the answer may, must not or must call a tool."""
    forced: str | None
    """Name of the tool that must be called, or None."""
    stops: tuple[str, ...]

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """Tools that the answer may call."""
        return [] if self.choice == "none" else self.tools


def read_chat_request(plain: Mapping[str, Any], model: ServedModel) -> ChatRequest:
    """Check the JSON object of a request.

    Raises:
        ApiError: If a field is wrong or not supported, or if the model is another one.
    """
    fields = read_body(ChatFields, plain, NEUTRAL)
    check_common(fields, model)
    if fields.top_logprobs:
        raise unsupported("top_logprobs", "only 0 is supported: the sampled token's logprob.")
    tools = read_tools(fields.tools)
    choice, forced = _read_choice(fields.tool_choice, tools)
    if choice == "required" and not model.engine.supports_constraints:
        raise unsupported("tool_choice", "this server's engine cannot force a call.")
    return ChatRequest(
        fields, read_messages(fields.messages), tools, choice, forced, read_stops(fields.stop)
    )


def check_common(fields: SamplingFields, model: ServedModel) -> None:
    """Check the fields of both APIs against the model and its limits. Raises ApiError."""
    if fields.model != model.name:
        hint = did_you_mean(fields.model[:200], [model.name]) or "."
        raise invalid(
            f"the model '{fields.model[:200]}' does not exist{hint} This server has "
            f"'{model.name}'.",
            "model",
            "model_not_found",
            status=404,
        )
    if fields.temperature and not MIN_TEMPERATURE <= fields.temperature <= MAX_TEMPERATURE:
        raise invalid(
            f"'temperature' must be 0 (greedy) or from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}.",
            "temperature",
        )
    if fields.n > model.limits.max_sequences:
        raise invalid(f"'n' must be at most {model.limits.max_sequences}.", "n")
    if fields.stream_options is not None and not fields.stream:
        raise invalid("'stream_options' needs 'stream': true.", "stream_options")


def read_stops(given: Any) -> tuple[str, ...]:
    """Return the stop strings of the field `stop`. Raises ApiError."""
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise invalid("'stop' must be a text or a list of texts that are not empty.", "stop")
    if len(stops) > MAX_STOPS or any(len(stop) > 1000 for stop in stops):
        raise invalid(f"'stop' may have {MAX_STOPS} texts of 1000 characters at most.", "stop")
    return tuple(stops)


def sampling_of(
    fields: SamplingFields, max_tokens: int | None, model: ServedModel
) -> SamplingSettings:
    """Return the engine's settings for a request."""
    defaults = model.defaults
    temperature = defaults.temperature if fields.temperature is None else fields.temperature
    stop_ids = frozenset(fields.stop_token_ids)
    return SamplingSettings(
        temperature,
        max_tokens or defaults.max_tokens or model.engine.max_context,
        stop_ids=stop_ids if fields.ignore_eos else stop_ids | model.chat.stop_ids,
    )


def _read_choice(
    given: Any, tools: Sequence[Mapping[str, Any]]
) -> tuple[Literal["auto", "none", "required"], str | None]:
    names = [tool["function"]["name"] for tool in tools]
    if given is None:
        return "auto", None
    if given in ("auto", "none"):
        return given, None
    if given == "required":
        if not names:
            raise invalid("'tool_choice': required needs 'tools'.", "tool_choice")
        return "required", names[0] if len(names) == 1 else None
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping) or given.get("type") != "function":
        raise invalid(
            "'tool_choice' must be auto, none, required or "
            '{"type": "function", "function": {"name": NAME}}.',
            "tool_choice",
        )
    if "name" not in function:
        raise missing("tool_choice.function.name")
    if function["name"] not in names:
        raise invalid(
            "'tool_choice.function.name' is the name of no tool in 'tools'.",
            "tool_choice.function.name",
        )
    return "required", function["name"]
