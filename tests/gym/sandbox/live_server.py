"""A small HTTP API for tests of live operations."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.fakes.openapi_apps import answers, many, path, query, takes

THING = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string"}, "size": {"type": "integer"}},
}
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/things": {
            "get": {
                "operationId": "list_things",
                **query(tag=many({"type": "string"}), big={"type": "boolean"}),
                **answers(many(THING)),
            }
        },
        "/things/{id}": {
            **path("id"),
            "get": {"operationId": "get_thing", **answers(THING)},
            "patch": {
                "operationId": "size_thing",
                **takes({"properties": {"size": {"type": "integer"}}}),
                **answers(THING),
            },
            "delete": {"operationId": "drop_thing", **answers(None, "204")},
        },
        "/do/{what}": {**path("what"), "post": {"operationId": "do", **answers(None)}},
        "/admin/reset": {
            "post": {
                "operationId": "reset",
                **takes({"properties": {"seed": {"type": "integer"}, "kind": {}}}),
            }
        },
        "/admin/dump": {"get": {"operationId": "dump"}},
    },
}
STATE = {"reset": ("reset", {"kind": "test"}), "dump": "dump"}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        self.states = {}
        self.elsewhere = ""
        self.outage = ""
        self.limited = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, dict(self.headers), body.decode()))
        things = self.server.states.setdefault(self.headers.get("X-Tenant", ""), {})
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        given = json.loads(body) if body else {}
        if self.server.limited:
            self.server.limited -= 1
            return self._limit()
        if self.server.outage:
            return getattr(self, f"_{self.server.outage}")()
        if parts == ["admin", "reset"]:
            things.clear()
            things.update({f"T{n}": {"id": f"T{n}", "size": given["seed"] + n} for n in range(3)})
            return self._say(200, {})
        if parts == ["admin", "dump"]:
            return self._say(200, {"things": list(things.values())})
        if parts[0] == "do":
            return getattr(self, f"_{parts[1]}")()
        if parts[1:] and parts[1] not in things:
            return self._say(404, {"error": f"no thing {parts[1]}"})
        if self.command == "PATCH":
            things[parts[1]] |= given
        if self.command == "DELETE":
            del things[parts[1]]
            return self._say(204)
        self._say(200, things[parts[1]] if parts[1:] else list(things.values()))

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _say(self, status, plain=None, **headers):
        data = b"" if plain is None else json.dumps(plain).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self):
        self._say(503, {"error": "down"})

    def _unknown(self):
        self._say(401, {"error": "who are you"})

    def _late(self):
        self._say(408, {"error": "slow"})

    def _limit(self):
        self._say(429, {"error": "too many"})

    def _drop(self):
        self.close_connection = True

    def _hang(self):
        time.sleep(3)

    def _trickle(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):  # the caller has disconnected
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)

    def _flood(self):
        self._say(200, "é" * 100_000)

    def _here(self):
        self._say(303, Location="/things")

    def _away(self):
        self._say(302, Location=f"{self.server.elsewhere}/things")

    def _circle(self):
        self._say(307, Location="/do/circle")
