"""A foreign environment with one hook that raises a chosen exception on chosen attempts."""

import threading

import gymnasium

from envgym.spaces import UnicodeText

HOOKS = (
    "make",
    "reset",
    "step",
    "close",
    "reward_raises",
    "reward_nan",
    "reward_none",
    "five_values",
    "gymnasium_error",
)


class Faulty(gymnasium.Env):
    """An environment of two turns that pays 1 for an answer.

    `broken` lists the resets (or constructions), counted over all instances, whose episode fails.
    """

    observation_space = UnicodeText()
    action_space = UnicodeText()
    hook = "step"
    broken = frozenset()
    lock = threading.Lock()
    resets = 0
    made = 0

    @classmethod
    def breaking(cls, hook: str, broken) -> type["Faulty"]:
        return type(
            "Faulty",
            (cls,),
            {
                "hook": hook,
                "broken": frozenset(broken),
                "resets": 0,
                "made": 0,
                "lock": threading.Lock(),
            },
        )

    def __init__(self):
        kind = type(self)
        with self.lock:
            number = kind.made
            kind.made = kind.made + 1
        self._break("make", number in self.broken)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        kind = type(self)
        with self.lock:
            self.number = kind.resets
            kind.resets = kind.resets + 1
        self.turn = 0
        self.bad = self.number in self.broken
        self._break("reset", self.bad)
        return f"say {(options or {}).get('task', seed)}", {}

    def step(self, action):
        self.turn += 1
        over = self.turn >= 2
        if self.bad and self.hook == "gymnasium_error":
            raise gymnasium.error.InvalidAction("not so")
        self._break("step", self.bad and over)
        self._break("reward_raises", self.bad and over)
        strange = (
            {"reward_nan": float("nan"), "reward_none": None}.get(self.hook, 0.5)
            if self.bad
            else 0.5
        )
        return (
            ("", strange, over, False)
            if self.bad and self.hook == "five_values"
            else ("", strange, over, False, {})
        )

    def close(self):
        self._break("close", True)

    def _break(self, hook: str, now: bool) -> None:
        if now and hook == self.hook:
            raise RuntimeError(f"{hook} is down")


gymnasium.register("Faulty-v0", entry_point=Faulty.breaking("step", range(1, 1000, 9)))
