"""llama.cpp's own HTTP server in a process; runs in the environment of `llama_cpp_python`.

python llama_cpp_server.py MODEL.gguf --port N [--template FILE]
"""

import argparse
import signal
from pathlib import Path

import xllamacpp

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--template")
options = parser.parse_args()

params = xllamacpp.CommonParams()
params.model.path = options.model
params.hostnames = ["127.0.0.1"]
params.port = options.port
params.n_ctx = 2048
params.n_parallel = 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.use_jinja = True
params.warmup = False
if options.template:
    params.chat_template = Path(options.template).read_text()
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
