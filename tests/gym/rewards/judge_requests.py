"""Requests to a judge, for the tests of judges."""

from types import SimpleNamespace

from envgym.rewards.evidence import Evidence
from envgym.rewards.parts.judge import judge
from envgym.rewards.scoring.llm_judge import Judges
from envgym.rewards.state_diff import compare_changes
from envgym.tasks import Task
from tests.gym.policies.test_openai import text_answer

TASK = Task("train/t/0", "Say hello.", 0, "train", "t")
GOOD = text_answer('{"score": 7, "reason": "Polite."}')
RUBRIC = "10: polite. 0: rude."
CURRENT = SimpleNamespace(judges=Judges())
"""The judges that `ask` and `rank` use."""


def said(text):
    return Evidence(TASK, (), (), compare_changes((), ()), text, 1, {})


def ask(url, text="Hello.", **options):
    return judge(said(text), judges=CURRENT.judges, url=url, model="m", rubric=RUBRIC, **options)


def counted(judges=None):
    """Return the counters above zero, without the prefix."""
    counts = (judges or CURRENT.judges).statistics()
    return {name.removeprefix("judge/"): count for name, count in counts.items() if count}


def in_turn(*answers):
    """Return a server function that gives the answers in order and repeats the last one."""
    left = list(answers)
    return lambda path, body: left.pop(0) if len(left) > 1 else left[0]
