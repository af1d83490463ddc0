"""Read the answers of vLLM's completion route into a turn, with all checks that training needs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from envgym.errors import WorldFailure
from envgym.policies import StopReason
from envgym_trainer.inference.token_session import TurnRequest
from envgym_trainer.inference.vllm.errors import NoAnswer


def take_answer(request: TurnRequest, answer: dict[str, Any]) -> StopReason:
    """Add the sampled tokens to the dialogue and return the stop reason.

    Raises:
        WorldFailure: If the answer cannot be used for training.
    """
    choice, ids, logprobs = _tokens(answer)
    if not ids:
        raise _unusable(f"0 tokens with {len(logprobs)} probabilities")
    for count, (token, logprob) in enumerate(zip(ids, logprobs, strict=True), start=1):
        reason = request.take(token, logprob)
        if bool(reason) != (count == len(ids)):
            break
        if reason:
            return reason
    raise _wrong_end(request, choice.get("finish_reason"), ids[-1])


def take_events(request: TurnRequest, events: Iterator[dict[str, Any]]) -> StopReason:
    """Add the tokens of an event stream to the dialogue as they come; see `take_answer`.

    Raises:
        NoAnswer: If the stream breaks before its first token, so that it may be requested again.
    """
    last, finish = -1, None
    try:
        for event in events:
            if not event.get("choices"):
                continue
            choice, ids, logprobs = _tokens(event)
            finish = choice.get("finish_reason") or finish
            for token, logprob in zip(ids, logprobs, strict=True):
                last = token
                if reason := request.take(token, logprob):
                    return reason
    except NoAnswer as error:
        if request.count == 0:
            raise
        raise WorldFailure(
            "policy_failed", f"the server's answer broke off: {error}", stage="policy"
        ) from None
    finally:
        if isinstance(events, Generator):
            events.close()  # the server stops sampling
    raise _wrong_end(request, finish, last)


def prompt_logprobs(answer: dict[str, Any], ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each id of the prompt after the first.

    Raises:
        WorldFailure: If the answer does not have them.
    """
    try:
        found = answer["choices"][0]["prompt_logprobs"]
        return [
            float(entry[str(token)]["logprob"])
            for token, entry in zip(ids[1:], found[1:], strict=True)
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _unusable(f"prompt_logprobs: {type(error).__name__} {error}") from None


def _tokens(answer: dict[str, Any]) -> tuple[dict[str, Any], list[int], list[float]]:
    try:
        choice = answer["choices"][0]
        ids = choice["token_ids"] or []
        logprobs = choice["logprobs"]["token_logprobs"] if ids else []
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} tokens with {len(logprobs)} probabilities")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _unusable(str(error)) from None
    return choice, ids, logprobs


def _unusable(problem: str) -> WorldFailure:
    return WorldFailure(
        "policy_failed",
        f"the server's answer has no token ids with their logprobs ({problem}). This needs vLLM "
        "0.10.2 or later",
        stage="policy",
    )


def _wrong_end(request: TurnRequest, finish: object, last: int) -> WorldFailure:
    return WorldFailure(
        "policy_failed",
        f"the server ended a turn ({finish}) with token {last}, but the turn does not end there: "
        f"its stop ids are {sorted(request.stop_ids)}",
        stage="policy",
    )
