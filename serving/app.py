# Copyright 2026 The Flow-Omni authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The ASGI app: who may come in, which path leads where, and how errors look."""

import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from .connections import Server
from .limits import LOG_CONFIG, ServerSettings
from .realtime_socket import serve_realtime
from .requests import chat_completions, speech, transcriptions
from .session import voices_of
from .turns import TurnDetection, TurnDetector, make_detector


logger = logging.getLogger("flow_omni.serving")

PAGE = Path(__file__).parent / "page"
# Everybody may ask whether the server is there, and load its page, which asks for the token.
OPEN_PATHS = {"/", "/health", *(f"/{path.name}" for path in PAGE.iterdir())}
TOKEN_SUBPROTOCOL = "openai-insecure-api-key."
HEADERS = {
    b"content-security-policy": b"default-src 'self'; connect-src 'self' ws: wss:; worker-src 'self' blob:",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class Guard:
    """Refuses strangers before anything is read: a wrong token, the page of another origin, too large a body."""

    def __init__(self, app: Callable, settings: ServerSettings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        if refusal is not None:
            status, code, message = refusal
            response = error_response(status, message, code)
            if scope["type"] == "websocket":
                return await WebSocket(scope, receive, send).send_denial_response(response)
            return await response(scope, receive, send)
        if scope["type"] == "http":
            receive = self._bounded(receive)
        await self.app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _refusal(self, connection: HTTPConnection) -> tuple[int, str, str] | None:
        headers, path = connection.headers, connection.url.path
        origin = headers.get("origin")
        if origin is not None and origin not in self.settings.allowed_origins:
            # a page of this server comes from the host that it asks
            if origin == "null" or urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
                return 403, "origin_not_allowed", f"Pages of {origin[:200]} may not use this server."
        if self.settings.token is not None and path not in OPEN_PATHS and not self._has_token(connection):
            return 401, "invalid_api_key", "Pass the server's token as `Authorization: Bearer TOKEN`."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.settings.limits.max_body_bytes:
            return 413, "body_too_large", f"A body has at most {self.settings.limits.max_body_bytes} bytes."
        return None

    def _has_token(self, connection: HTTPConnection) -> bool:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        candidates = [token.strip()] if scheme.lower() == "bearer" else []
        # pages cannot set headers of a WebSocket
        protocols = connection.scope.get("subprotocols", [])
        candidates += [one.removeprefix(TOKEN_SUBPROTOCOL) for one in protocols if one.startswith(TOKEN_SUBPROTOCOL)]
        expected = self.settings.token.encode()
        return any(hmac.compare_digest(one.encode("utf-8", "replace"), expected) for one in candidates)

    def _bounded(self, receive: Callable) -> Callable[[], Awaitable[dict]]:
        num_bytes, limit = 0, self.settings.limits.max_body_bytes

        async def bounded() -> dict:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise HTTPException(413, {"message": f"A body has at most {limit} bytes.", "code": "body_too_large"})
            return message

        return bounded


def _with_headers(send: Callable) -> Callable:
    async def sending(message: dict) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message.get("headers", []), *HEADERS.items()]}
        await send(message)

    return sending


def error_response(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(content, status, headers={"retry-after": "2"} if status in (429, 503) else None)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    detail = error.detail if isinstance(error.detail, dict) else {"message": str(error.detail)}
    return error_response(error.status_code, detail["message"], detail.get("code"), detail.get("param"))


async def _on_value_error(request: Request, error: Exception) -> Response:
    """What the client sent was wrong; the message says how."""
    return error_response(400, str(error), getattr(error, "code", "invalid_value"), getattr(error, "param", None))


async def _on_failure(request: Request, error: Exception) -> Response:
    logger.error("request_failed", exc_info=error, extra={"fields": {"path": request.url.path}})
    return error_response(500, "The server failed.", "server_error")


def make_app(
    model: Any,
    processor: Any,
    settings: ServerSettings | None = None,
    make_detector: Callable[[TurnDetection], TurnDetector] = make_detector,
) -> Starlette:
    """The app for a model. `app.state.server` has its parts; it is ready once its lifespan has begun."""
    settings = settings or ServerSettings()
    server = Server(model, processor, settings, make_detector)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server.engine.start()
        start = time.perf_counter()
        await server.warm_up()
        logger.info("ready", extra={"fields": {"seconds": round(time.perf_counter() - start, 2)}})
        yield
        server.is_draining = True
        server.engine.stop()

    async def health(request: Request) -> Response:
        is_well = server.is_ready and not server.is_draining
        status = "ok" if is_well else "draining" if server.is_draining else "starting"
        return JSONResponse({"status": status, "sessions": server.num_open}, 200 if is_well else 503)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(request: Request) -> Response:
        one = {"id": settings.model_name, "object": "model", "created": created, "owned_by": "flow-omni"}
        one["voices"] = voices_of(model)  # for the page
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": [one]})
        server.check_model(name)
        return JSONResponse(one)

    async def realtime(websocket: WebSocket) -> None:
        try:
            server.check_model(websocket.query_params.get("model"))
            await serve_realtime(server, websocket)
        except HTTPException as error:
            await websocket.send_denial_response(await _on_http_error(None, error))

    def endpoint(function: Callable) -> Callable:
        async def call(request: Request) -> Response:
            return await function(server, request)

        return call

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            # a mount of its own: the page, which matches every path, would answer other methods with "not found"
            Mount(
                "/v1",
                routes=[
                    Route("/models", models),
                    Route("/models/{name:path}", models),
                    Route("/audio/speech", endpoint(speech), methods=["POST"]),
                    Route("/audio/transcriptions", endpoint(transcriptions), methods=["POST"]),
                    Route("/chat/completions", endpoint(chat_completions), methods=["POST"]),
                    WebSocketRoute("/realtime", realtime),
                ],
            ),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Guard, settings=settings)],
        exception_handlers={
            HTTPException: _on_http_error,
            ValueError: _on_value_error,
            Exception: _on_failure,
        },
        lifespan=lifespan,
    )
    app.state.server = server
    return app


class DrainingServer(uvicorn.Server):
    """Lets answers end before sockets are closed, when it is told to stop."""

    async def shutdown(self, sockets: list | None = None) -> None:
        await self.config.app.state.server.drain()
        await super().shutdown(sockets)


def run(app: Starlette, host: str, port: int) -> None:
    """Serves the app until SIGTERM or Ctrl-C."""
    limits = app.state.server.limits
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=LOG_CONFIG,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=limits.max_message_bytes,
        # audio does not get smaller
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
    )
    DrainingServer(config).run()
