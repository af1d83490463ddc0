"""A small environment whose prompts, tools and errors hold text of every kind.

`KINDS` holds the texts by name. One task of each kind calls a tool that answers with the text, and
one that refuses with it.
"""

from pathlib import Path

KINDS = {
    "surrogate": "half \ud83d and \udcff",
    "pair": "\ud83d\ude00",
    "nul": "a\x00b",
    "ansi": "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "c1": "\x9b2J\x9d0;title\x9c\x85",
    "bidi": "pay \u202e001\u202c \u2066x\u2069 \u200f",
    "lines": "one\u2028two\u2029three\x0bfour\rfive",
    "private": "\ue000\ufdd0\ufffe\U0010ffff",
    "markup": "[/x] [red]gone[/red] :smile: | `code` </b>",
    "json": 'data {"a": NaN}\n{"b": Infinity}',
    "large": "\u6f22\ud800\u2028" * 2_000,
}

YAML = """\
id: test/odd-texts-v0
prompt:
  system: "Call the tool. \\ud83d \\ud83d\\ude00 \\e[2J \\0 \\u2028 \\u202e"
tools: [tools.py]
sandbox: {{backend: {backend}}}
tasks: {{from: tasks.py, val: {size}, test: {size}}}
reward: {{solved: {{from: parts.py:same}}}}
"""

TOOLS = '''\
from odd import KINDS

def say(kind: str) -> str:
    """Answer with a text. \\ud83d

    Args:
        kind: Name of the text.
    """
    return KINDS[kind]

def refuse(kind: str) -> str:
    """Refuse with a text.

    Args:
        kind: Name of the text.
    """
    raise ValueError(KINDS[kind])
'''

TASKS = """\
from envgym import Draw, Task, ToolCall, template
from odd import KINDS

def make(kind):
    def task(draw: Draw) -> Task:
        calls = [ToolCall("say", {"kind": kind}), ToolCall("refuse", {"kind": kind})]
        ways = [f"Say {number}: {KINDS[kind][:40]}" for number in range(3)]
        return draw.task(
            prompt=draw.wording(ways), oracle=calls, final=KINDS[kind], label=KINDS[kind]
        )

    task.__name__ = f"say_{kind}"
    return template(level="L0")(task)

templates = [make(kind) for kind in KINDS]
globals().update({each.name: each for each in templates})
"""


PARTS = """\
def same(evidence):
    return float(evidence.final_message.strip() == evidence.task.extra["label"].strip())
"""


def write_odd_texts(folder: Path, *, backend: str) -> Path:
    """Write the environment into a folder and return its YAML file."""
    (folder / "odd.py").write_text(f"KINDS = {KINDS!a}\n")
    (folder / "tools.py").write_text(TOOLS)
    (folder / "tasks.py").write_text(TASKS)
    (folder / "parts.py").write_text(PARTS)
    path = folder / "odd-texts.yaml"
    path.write_text(YAML.format(backend=backend, size=len(KINDS)))
    return path
