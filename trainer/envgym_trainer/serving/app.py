"""Routes of the server. Every error is JSON in OpenAI's form.

To add an API, write a file with an `Exchange` and name it in `APIS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from envgym_trainer.serving.api_errors import ApiError
from envgym_trainer.serving.api_route import (
    ApiRoute,
    Opener,
    ServerState,
    check_key,
    error_response,
    json_response,
)
from envgym_trainer.serving.chat_completions import ChatCompletion
from envgym_trainer.serving.completions import TextCompletion

Endpoint = Callable[[Request], Awaitable[Response]]
APIS: dict[str, Opener] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": TextCompletion,
}


def build_app(state: ServerState) -> Starlette:
    """Return the application of a server."""
    models = _models(state)
    apis = [
        Route(path, ApiRoute(state, path, opener), methods=["POST"])
        for path, opener in APIS.items()
    ]
    routes = [
        Route("/health", _health(state), methods=["GET"]),
        Route("/metrics", _metrics(state), methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", models, methods=["GET"]),
        *apis,
    ]
    handlers: Any = {HTTPException: _refuse_route, ApiError: _refuse, Exception: _refuse}
    return Starlette(routes=routes, exception_handlers=handlers)


def _health(state: ServerState) -> Endpoint:
    async def health(request: Request) -> Response:
        if state.is_draining:
            return json_response({"status": "draining"}, 503)
        return json_response({"status": "ok", "model": state.model.name})

    return health


def _metrics(state: ServerState) -> Endpoint:
    async def metrics(request: Request) -> Response:
        text = state.counters.text(state.model.engine.statistics)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


def _models(state: ServerState) -> Endpoint:
    async def models(request: Request) -> Response:
        check_key(request, state.key)
        model = state.model
        entry = {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "envgym",
            "max_model_len": model.engine.max_context,
        }
        if "name" not in request.path_params:
            return json_response({"object": "list", "data": [entry]})
        if request.path_params["name"] != model.name:
            raise ApiError(404, "this model does not exist.", param="model", code="model_not_found")
        return json_response(entry)

    return models


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Answer a request to a path, or with a method, that does not exist."""
    status = getattr(error, "status_code", 404)
    where = f"{request.method} {request.url.path}"
    paths = ", ".join([*(f"POST {path}" for path in APIS), "GET /v1/models"])
    return error_response(
        ApiError(status, f"unknown request: {where}. This server has {paths}.", code="unknown_url")
    )


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer a request that failed."""
    return error_response(error)
