"""Serve a run, an adapter or a model with OpenAI's API.

A client that sends messages and `tools=` gets the prompts and the parsing of calls that the adapter
was trained with. Sampling defaults are those of the run's evaluations. Ctrl-C answers the requests
in flight before it ends; a second Ctrl-C ends at once. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from typing import TYPE_CHECKING

from envgym.commands.arguments import positive, temperature
from envgym.errors import PrerequisiteError, UsageError
from envgym_trainer.commands.prerequisites import need_torch

if TYPE_CHECKING:
    from envgym_trainer.serving.served_model import ServedModel

EXAMPLE = """envgym serve runs/guess --port 8000
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "guess", "messages": [{"role": "user", "content": "Go."}]}'"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the target, the address, the sampling defaults and the limits."""
    parser.add_argument(
        "target",
        help="a run (runs/NAME), an adapter (runs/NAME/adapter), or a model: a built-in name, a "
        "Hugging Face id or a folder",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port, or 0 for any free one (default: 8000)"
    )
    parser.add_argument(
        "--name", help="name of the model in requests (default: that of the run or the model)"
    )
    parser.add_argument(
        "--key", metavar="env:NAME", help="variable with the API key that clients must send"
    )
    parser.add_argument(
        "--temperature",
        type=temperature,
        help="default of requests (default: as the run's evaluations, 1 for a model)",
    )
    parser.add_argument(
        "--max-turn-tokens",
        type=positive,
        metavar="N",
        help="default of a request's max_tokens (default: as in the run, unlimited for a model)",
    )
    parser.add_argument(
        "--max-context-tokens",
        type=positive,
        metavar="N",
        help="maximum tokens of a conversation (default: as in the run, at most 4096 for a model)",
    )
    parser.add_argument(
        "--max-requests",
        type=positive,
        metavar="N",
        default=256,
        help="requests in flight; further ones get status 429 (default: 256)",
    )
    parser.add_argument(
        "--max-batch",
        type=positive,
        metavar="N",
        default=64,
        help="conversations that are sampled at once and kept in memory (default: 64)",
    )
    parser.add_argument(
        "--max-body-mb",
        type=positive,
        metavar="MB",
        default=4,
        help="maximum size of a request's body (default: 4)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=positive,
        metavar="SECONDS",
        default=600,
        help="time for the requests in flight after Ctrl-C or SIGTERM (default: 600)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends the command."""
    need_torch()
    _need_server()
    from envgym.text.terminal import print_line
    from envgym_trainer.serving.api_route import ServerState
    from envgym_trainer.serving.opening import OpenOptions, check_target, name_of, open_target
    from envgym_trainer.serving.served_model import Limits, ServedModel
    from envgym_trainer.serving.server import listen, serve, url_of

    key = _key(arguments.key)
    _warn_without_key(arguments.host, key)
    check_target(arguments.target)
    limits = Limits(arguments.max_requests, arguments.max_batch, arguments.max_body_mb * 2**20)
    with listen(arguments.host, arguments.port) as bound:
        engine, defaults = open_target(
            arguments.target,
            OpenOptions(
                arguments.device,
                arguments.max_batch,
                arguments.temperature,
                arguments.max_turn_tokens,
                arguments.max_context_tokens,
            ),
        )
        name = arguments.name or name_of(arguments.target)
        with ServedModel(name, engine, defaults, limits) as model:
            code = serve(
                ServerState(model, key),
                bound,
                drain_seconds=arguments.drain_seconds,
                on_ready=lambda: print_line(_welcome(model, url_of(bound), arguments.key)),
                on_drain=lambda count: print_line(_farewell(count), file=sys.stderr),
            )
            # After a second signal no request is awaited. Closing the engine ends its turns.
            engine.close()
    return code


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port from 0 to 65535")
    return int(text)


def _need_server() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise PrerequisiteError(
            f"`envgym serve` needs {error.name}: pip install 'envgym[serve]'"
        ) from None


def _key(text: str | None) -> str | None:
    """Return the key that a reference `env:NAME` names."""
    from envgym.secrets.references import has_reference
    from envgym.secrets.values import resolve

    if text is None:
        return None
    if not has_reference(text):
        raise UsageError(
            "--key takes the name of an environment variable, as in --key env:SERVE_KEY, because "
            "other accounts can see the arguments of a command."
        )
    key = resolve(text)
    if not key:
        raise PrerequisiteError(f"--key {text}: this variable is not set. Set it first.")
    return key


def _warn_without_key(host: str, key: str | None) -> None:
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and key is None:
        print(
            f"WARNING: --host {host} without --key: everyone who reaches this address can use the "
            "model.",
            file=sys.stderr,
        )


def _welcome(model: ServedModel, url: str, key: str | None) -> str:
    """Return the address, and two examples that work as they are."""
    variable = key.removeprefix("env:") if key else ""
    header = f' \\\n  -H "Authorization: Bearer ${variable}"' if key else ""
    secret = f'os.environ["{variable}"]' if key else '"none"'
    return f"""serving '{model.name}' at {url}/v1 (Ctrl-C ends)

curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} \\
  -d '{{"model": "{model.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

from openai import OpenAI{"; import os" if key else ""}
client = OpenAI(base_url="{url}/v1", api_key={secret})
messages = [{{"role": "user", "content": "Hello"}}]
answer = client.chat.completions.create(model="{model.name}", messages=messages)
print(answer.choices[0].message.content)
"""


def _farewell(count: int) -> str:
    if not count:
        return "stopping"
    return f"stopping when {count} requests are answered; Ctrl-C again ends at once"
