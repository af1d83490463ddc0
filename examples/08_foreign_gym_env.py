"""Use any Gymnasium environment with text observations and text actions, without changing it.

The trainer needs the same few lines in a YAML: `id: my/echo-v0` and `gym: package.module:Echo-v0`.

python examples/08_foreign_gym_env.py
"""

import string

import gymnasium as gym

from envgym import EnvSpec, Outcome, RandomPolicy, ScriptedPolicy, evaluate, make_world


class Echo(gym.Env):
    """Say the word that you are shown, within two turns."""

    observation_space = gym.spaces.Text(100, charset=string.printable)
    action_space = gym.spaces.Text(100, charset=string.printable)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = ["low", "high"][self.np_random.integers(2)]
        self.turn = 0
        return f"say: {self.word}", {}

    def step(self, action):
        self.turn += 1
        is_right = action.strip() == self.word
        return f"no. say: {self.word}", float(is_right), is_right, self.turn >= 2, {}


gym.register("Echo-v0", entry_point=Echo)


def main() -> list[Outcome]:
    """Evaluate two policies. A task of a foreign environment is the seed of its `reset`."""
    world = make_world(EnvSpec(id="examples/echo-v0", gym="Echo-v0"))
    policies = {"low, then high": ScriptedPolicy(["low", "high"]), "random": RandomPolicy()}
    return [
        evaluate(world, policy, name=name, tasks=20, progress=False)
        for name, policy in policies.items()
    ]


if __name__ == "__main__":
    for outcome in main():
        print(f"{outcome.policy}: {outcome.total.text()}")
