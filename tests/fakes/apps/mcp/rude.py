"""An MCP server without the SDK, so that it can print invalid text to stdout."""

import json
import os
import sys

FLOOD = (
    b'{"jsonrpc": "2.0", "method": "notifications/message",'
    b' "params": {"level": "info", "data": "%s"}}\n' % (b"x" * 4096)
)


def answer(method: str, params: dict) -> dict:
    if method == "initialize":
        version = params["protocolVersion"]
        return {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "rude", "version": "1"},
        }
    if method == "tools/list":
        return {
            "tools": [
                {"name": name, "inputSchema": {"type": "object"}}
                for name in ("garble", "flood", "misread", "ask")
            ]
        }
    if params["name"] == "flood":
        while True:
            os.write(1, FLOOD)
    if params["name"] == "ask":
        os.write(1, b'{"jsonrpc": "2.0", "id": "mine", "method": "roots/list"}\n')
        told = json.loads(sys.stdin.readline())
        return {"content": [{"type": "text", "text": f"{told['id']}: {told['error']['message']}"}]}
    if params["name"] == "misread":
        raise KeyError("a name is missing")
    os.write(1, b'Welcome!\n{"half": \n[1, 2]\n\xff\xfe\n')
    return {"content": [{"type": "text", "text": "still here"}]}


while line := sys.stdin.readline():
    request = json.loads(line)
    if "id" not in request:
        continue
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    try:
        if request["method"] == "server/discover":
            raise LookupError("an older server")
        reply["result"] = answer(request["method"], request.get("params", {}))
    except KeyError as error:
        reply["error"] = {"code": -32602, "message": str(error)}
    except LookupError as error:
        reply["error"] = {"code": -32601, "message": str(error)}
    os.write(1, json.dumps(reply).encode() + b"\n")
