"""OpenAI-compatible server over an inference engine; see `envgym serve`.

One file per API: `chat_completions.py` and `completions.py`. `generation.py` samples from the
engine, `app.py` routes requests, checks the key and counts, and `server.py` listens and drains.
Needs the extra `serve` (starlette, uvicorn). Not supported: several models in one server.
"""
