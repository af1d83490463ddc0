"""Short chat templates in the style of model families, and toy tokenizers with their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.small_models import byte_tokenizer


@dataclass(frozen=True)
class Family:
    """One family: its template and its control tokens."""

    name: str
    template: str
    special: tuple[str, ...]
    """Tokens that the tokenizer marks as special."""
    eos: str
    added: tuple[str, ...] = ()
    """Tokens that are added, but not marked as special."""
    dialect: str | None = None
    """Dialect of its calls; None if the template takes no tools."""
    adapters: tuple[str, ...] = ()
    """Adapters that `text` rendering needs."""
    variables: dict[str, Any] = field(default_factory=dict)

    def tokenizer(self) -> Any:
        """Return a byte-level tokenizer with the tokens and the template of the family."""
        from tokenizers import AddedToken

        tokenizer = byte_tokenizer(self.special, eos=self.eos, template=self.template)
        tokenizer.add_tokens(
            [AddedToken(token, special=False, normalized=False) for token in self.added]
        )
        return tokenizer


def _file(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


HERMES_TEMPLATE = _file("hermes")

FORGETFUL_TEMPLATE = HERMES_TEMPLATE.replace(
    "{%- for message in messages %}\n{%- if message.role == 'user'",
    "{%- set ns = namespace(last=-1) %}\n"
    "{%- for message in messages %}{%- if message.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}\n"
    "{%- for message in messages %}\n{%- if message.role == 'user'",
).replace(
    "{%- if message.reasoning_content %}",
    "{%- if message.reasoning_content and loop.index0 > ns.last %}",
)

GEMMA_TEMPLATE = _file("gemma")

PHI3_TEMPLATE = _file("phi3")

COHERE_TEMPLATE = _file("cohere")

NO_SYSTEM_TEMPLATE = GEMMA_TEMPLATE.replace(
    "{%- set first = messages[0].content + '\\n\\n' %}{%- set rest = messages[1:] %}",
    "{{- raise_exception('System role not supported') }}",
)

DATED_TEMPLATE = _file("dated")

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HERMES_ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

FAMILIES = (
    Family("hermes", HERMES_TEMPLATE, CHATML_TOKENS, "<|im_end|>", HERMES_ADDED, "hermes"),
    Family(
        "forgetful",
        FORGETFUL_TEMPLATE,
        CHATML_TOKENS,
        "<|im_end|>",
        HERMES_ADDED,
        "hermes",
    ),
    Family(
        "gemma",
        GEMMA_TEMPLATE,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        adapters=("results_as_user_turns", "merged_turns"),
    ),
    Family(
        "no_system",
        NO_SYSTEM_TEMPLATE,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        adapters=("system_in_user_turn", "results_as_user_turns", "merged_turns"),
    ),
    Family(
        "phi3",
        PHI3_TEMPLATE,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        adapters=("results_as_user_turns",),
    ),
    Family(
        "cohere",
        COHERE_TEMPLATE,
        (
            "<BOS_TOKEN>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ),
        "<|END_OF_TURN_TOKEN|>",
        adapters=("results_as_user_turns", "merged_turns"),
    ),
    Family(
        "dated",
        DATED_TEMPLATE,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
)
BY_NAME = {family.name: family for family in FAMILIES}
