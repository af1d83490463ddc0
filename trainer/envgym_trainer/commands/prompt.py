"""Show a task's prompt as a model reads it: rendering, text, ids, and how it was made.

Prints where it differs from the model's own chat template with the tools as schemas.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from envgym.commands.arguments import add_env, add_split

if TYPE_CHECKING:
    from envgym.messages import Message
    from envgym.world import World
    from envgym_trainer.model.chat import Chat

EXAMPLE = "envgym prompt guess --model tiny"
AROUND = 40
"""Number of characters that are shown at a difference."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment, the model, the task and the form of the output."""
    add_env(parser)
    parser.add_argument(
        "--model", help="built-in model, Hugging Face id or directory (default: train.model)"
    )
    parser.add_argument(
        "--task", help="task id, such as test/find_number/0 (default: drawn with seed 0)"
    )
    add_split(parser, "train")
    parser.add_argument("--ids", action="store_true", help="print all ids")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Render the prompt of one task and print it."""
    from envgym.commands.arguments import load_env
    from envgym.registration import make_world
    from envgym.text import to_json, visible
    from envgym.text.terminal import print_line
    from envgym_trainer.config import TrainConfig
    from envgym_trainer.model.load import load_tokenizer
    from envgym_trainer.model.rendering_choice import choose_rendering, open_chat, with_rendering

    spec = load_env(arguments)
    model = arguments.model or TrainConfig.of(spec.train).model.name
    tokenizer = load_tokenizer(model)
    why = choose_rendering(tokenizer, spec.prompt).why if spec.tools else "there are no tools"
    spec = with_rendering(spec, model)
    chat = open_chat(spec, tokenizer)
    messages, tools = _opening(make_world(spec), arguments)
    ids = chat.open(messages, tools)
    text = chat.tokenizer.decode(ids)
    found = {
        "model": model,
        **chat.describe(),
        "why": why,
        "tokens": len(ids),
        "text": text,
        "ids": ids,
        "difference": difference(chat, messages, tools, text),
    }
    if arguments.json:
        print(to_json(found, indent=2))
        return
    print_line(text)
    print_line("")
    print_line(f"{len(ids)} tokens" + (f": {ids}" if arguments.ids else ""))
    print_line(f"rendering: {chat.rendering} ({why})")
    print_line(f"calls: {chat.call_dialect}; read: {', '.join(chat.dialects)}")
    print_line(f"adapters: {', '.join(chat.adapters) or 'none'}")
    print_line(f"template sha256: {found['template_sha256']}")
    print_line(visible(f"apply_chat_template: {found['difference'] or 'the same text'}"))


def difference(
    chat: Chat, messages: Sequence[Message], tools: Sequence[dict[str, Any]], text: str
) -> str:
    """Return how a prompt differs from the tokenizer's own template; empty if it does not.

    Args:
        chat: Converter of the prompt.
        messages: Opening messages.
        tools: Tools of the prompt, for the template.
        text: Rendered prompt.
    """
    if not chat.tokenizer.chat_template:
        return "the tokenizer has no chat template"
    try:
        plain = chat.tokenizer.apply_chat_template(
            [message.to_dict() for message in messages],
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
    except Exception as error:  # templates may raise any exception
        return f"refuses the conversation: {error}"
    if plain == text:
        return ""
    pairs = zip(plain, text, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(plain), len(text)))
    return (
        f"differs at character {at}: {plain[at : at + AROUND]!r} instead of "
        f"{text[at : at + AROUND]!r}"
    )


def _opening(
    world: World, arguments: argparse.Namespace
) -> tuple[list[Message], list[dict[str, Any]]]:
    """Return the opening messages and the tools of a task, and close the world."""
    from envgym.messages import Message

    try:
        env = world.env(split=arguments.split)
        options = {"task": arguments.task} if arguments.task else None
        observation, info = env.reset(seed=0, options=options)
        env.close()
    finally:
        world.close()
    given = info.get("messages") or [{"role": "user", "content": observation}]
    return [Message.from_dict(message) for message in given], list(info.get("tools", ()))
