"""Stand-in for the command `vllm serve`: the stand-in server over a model folder, as a process.

`write_command` makes an executable. Further arguments: `--fail TEXT` ends at the start,
`--die-after N` ends without an answer at the Nth completion, `--hang` never answers.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def write_command(folder: Path) -> Path:
    """Write an executable `vllm` that runs this file, and return its path."""
    path = folder / "vllm"
    path.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'trainer')!r}]\n"
        "from tests.fakes.vllm_command import main\nmain(sys.argv[1:])\n"
    )
    path.chmod(0o755)
    return path


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--fail")
    parser.add_argument("--die-after", type=int, default=0)
    parser.add_argument("--hang", action="store_true")
    options, _ = parser.parse_known_args(argv)
    if options.fail:
        sys.exit(f"ValueError: {options.fail}")
    # As vLLM's engine: another process of the group, which ignores a polite end.
    subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 300"])
    if options.hang:
        time.sleep(300)

    import torch
    from transformers import AutoModelForCausalLM

    from tests.fakes.vllm_server import StandIn, serving

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    state = StandIn(model.eval(), options.served_model_name)
    answer = state.answer
    key = os.environ["VLLM_API_KEY"]

    def logged(path, body):
        print("REQUEST", path, flush=True)
        completions = sum(asked == "/v1/completions" for asked, _ in state.requests)
        if options.die_after and completions >= options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(path, body)

    state.answer = logged
    with serving(state, port=options.port, key=key):
        time.sleep(300)
