"""Counters of a server, in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from envgym_trainer.inference import EngineStatistics
from envgym_trainer.serving.generation import SampledSequence

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histogram of request times, in seconds."""
ENGINE = {
    "prefill_tokens": "Prompt tokens that the engine computed, without cached ones.",
    "decoded_tokens": "Tokens that the engine sampled.",
    "steps": "Forward passes of the engine.",
    "seconds_busy": "Wall seconds of forward passes and sampling.",
}


class ServerCounters:
    """Counters since the start. Used on the event loop only."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests that are being answered."""
        self.responses: Counter[tuple[str, int]] = Counter()
        """Number of responses by path and HTTP status."""
        self.disconnected = 0
        """Requests whose client went away before the response."""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def add_response(self, path: str, status: int, seconds: float) -> None:
        """Count a response and the time of its request."""
        self.responses[path, status] += 1
        place = next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self._buckets[place] += 1
        self._seconds += seconds

    def add_tokens(self, sequences: Sequence[SampledSequence]) -> None:
        """Count the tokens of a request that was sampled."""
        self.completion_tokens += sum(len(each.tokens) for each in sequences)
        self.cached_tokens += sum(each.cached for each in sequences)
        prompts = {id(each.prompt): len(each.prompt) for each in sequences}
        self.prompt_tokens += sum(prompts.values())

    def text(self, engine: EngineStatistics) -> str:
        """Return all counters in Prometheus' text format."""
        return "\n".join([*self._lines(engine), ""])

    def _lines(self, engine: EngineStatistics) -> Iterator[str]:
        yield from _metric("requests_in_flight", "gauge", "Requests in flight.", self.in_flight)
        yield from _head("responses_total", "counter", "Responses by path and status.")
        for (path, status), count in sorted(self.responses.items()):
            yield f'envgym_responses_total{{path="{path}",status="{status}"}} {count}'
        yield from _metric("disconnects_total", "counter", "Lost clients.", self.disconnected)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            words = f"Number of {name.replace('_', ' ')} of all requests."
            yield from _metric(f"{name}_total", "counter", words, getattr(self, name))
        for name, words in ENGINE.items():
            value = getattr(engine, name)
            if not math.isnan(value):
                yield from _metric(f"engine_{name}_total", "counter", words, value)
        yield from self._histogram()

    def _histogram(self) -> Iterator[str]:
        name = "envgym_request_seconds"
        yield from _head("request_seconds", "histogram", "Time from request to end of response.")
        total = 0
        for bound, count in zip((*BUCKETS, math.inf), self._buckets, strict=True):
            total += count
            shown = "+Inf" if bound == math.inf else f"{bound:g}"
            yield f'{name}_bucket{{le="{shown}"}} {total}'
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {total}"


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP envgym_{name} {words}"
    yield f"# TYPE envgym_{name} {kind}"


def _metric(name: str, kind: str, words: str, value: float) -> Iterator[str]:
    yield from _head(name, kind, words)
    yield f"envgym_{name} {value}"
