"""A text environment with a different reward for each answer.

A random model therefore gets a gradient at every step.
"""

import gymnasium as gym


class Letters(gym.Env):
    observation_space = gym.spaces.Text(1000)
    action_space = gym.spaces.Text(1000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return f"say {self.np_random.integers(100)}", {}

    def step(self, action):
        self.turn += 1
        letters = sum(map(ord, action)) % 8
        return f"{letters}", letters / 8, self.turn == 2, False, {"success": letters > 3}


gym.register("Letters-v0", entry_point=Letters)
