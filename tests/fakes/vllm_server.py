"""Server with the part of vLLM's protocol that the trainer uses, over a small model.

The model runs in this process, so speed is not representative. Fields and answers follow vLLM's
`entrypoints/openai/completion/protocol.py` and its `..._lora_adapter` routes.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import PeftModel


class StandIn:
    """State of the server.

    Args:
        model: Base model.
        name: Its name on the server.
        loads_adapters: Whether adapters can be loaded at run time.
    """

    def __init__(self, model, name="tiny", *, loads_adapters=True):
        self.base = model
        self.name = name
        self.loads_adapters = loads_adapters
        self.eos = model.config.eos_token_id
        self.adapters = {}
        self.requests = []
        """Path and body of every request."""
        self.change = lambda choice: None
        """Function that changes each choice before it is sent."""
        self.unavailable = 0
        """Number of next requests that are answered with 503."""
        self.is_healthy = True
        self.ignores_adapters = False
        """Whether all completions come from the base model."""
        self.reject = ""
        """Error of the next adapters, which are answered with 400."""
        self.lock = threading.Lock()

    def answer(self, path, body):
        """Return the status and the text for one request."""
        if path == "/health":
            return (200 if self.is_healthy else 503), ""
        self.requests.append((path, body))
        if self.unavailable:
            self.unavailable -= 1
            return 503, "busy"
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": name} for name in (self.name, *self.adapters)]})
        if path.endswith("_lora_adapter"):
            return self.adapt(path, body)
        if path in ("/sleep?level=1", "/wake_up"):
            return 200, "{}"
        if refusal := salt_refusal(body.get("cache_salt")):
            return 400, json.dumps({"error": {"message": refusal}})
        if body["model"] not in (self.name, *self.adapters):
            return 404, json.dumps(
                {"error": {"message": f"The model `{body['model']}` does not exist."}}
            )
        with self.lock:
            adapted = self.adapters.get(body["model"], self.base)
            choice = self.sample(self.base if self.ignores_adapters else adapted, body)
        if "prompt_logprobs" not in body:
            self.change(choice)
        if body.get("stream"):
            return 200, events_of(choice)
        return 200, json.dumps({"choices": [choice]})

    def adapt(self, path, body):
        if not self.loads_adapters:
            return 404, '{"detail":"Not Found"}'
        if self.reject:
            return 400, json.dumps({"error": {"message": self.reject}})
        if path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
        elif body["lora_name"] in self.adapters:
            return 400, json.dumps(
                {
                    "error": {
                        "message": f"The lora adapter '{body['lora_name']}'"
                        " has already been loaded."
                    }
                }
            )
        else:
            assert Path(body["lora_path"]).is_absolute()
            copied = type(self.base)(self.base.config)
            copied.load_state_dict(self.base.state_dict())
            self.adapters[body["lora_name"]] = PeftModel.from_pretrained(
                copied, body["lora_path"]
            ).eval()
        return 200, "Success: done."  # plain text, as in vLLM

    @torch.no_grad()
    def sample(self, model, body):
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        ids = list(body["prompt"])
        scored = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        prompt = [
            {str(token): {"logprob": float(row[token])}}
            for token, row in zip(ids[1:], scored, strict=True)
        ]
        sampled = []
        logprobs = []
        stops = {*body.get("stop_token_ids", ()), *([] if body.get("ignore_eos") else [self.eos])}
        for _ in range(body["max_tokens"]):
            logits = model(torch.tensor([ids])).logits[0, -1]
            scores = (logits / (body["temperature"] or 1.0)).log_softmax(-1)
            greedy = body["temperature"] == 0
            token = (
                int(scores.argmax())
                if greedy
                else int(torch.multinomial(scores.exp(), 1, generator=generator))
            )
            ids.append(token)
            sampled.append(token)
            logprobs.append(float(scores[token]))
            if token in stops:
                break
        reason = "stop" if sampled[-1] in stops else "length"
        return {
            "text": "",
            "finish_reason": reason,
            "token_ids": sampled,
            "logprobs": {"token_logprobs": logprobs},
            "prompt_logprobs": [None, *prompt],
        }


def salt_refusal(salt):
    """Return why vLLM refuses a cache salt, or an empty string."""
    if salt is None or (0 < len(salt) <= 128 and not set(salt) & set("@/\\\0")):
        return ""
    return "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/'"


def events_of(choice):
    """Return a choice as server-sent events, one token each."""
    pairs = list(zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True))
    lines = []
    for index, (token, logprob) in enumerate(pairs):
        is_last = index == len(pairs) - 1
        part = {
            "token_ids": [token],
            "logprobs": {"token_logprobs": [logprob]},
            "finish_reason": choice["finish_reason"] if is_last else None,
        }
        lines.append(f"data: {json.dumps({'choices': [part]})}\n\n")
    return "".join([*lines, "data: [DONE]\n\n"])


@contextmanager
def serving(state, *, port=0, key=None):
    """Run the server while in the block, and yield its address.

    Args:
        state: State of the server.
        port: Port; 0 for a free one.
        key: API key that requests must have, except for /health.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.respond({})

        def do_POST(self):
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body):
            if key and self.path != "/health" and self.headers["Authorization"] != f"Bearer {key}":
                status, text = 401, "unauthorized"
            else:
                status, text = state.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
