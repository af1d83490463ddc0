"""A text environment without envgym: repeat the displayed word within two turns."""

import gymnasium as gym


class Echo(gym.Env):
    observation_space = gym.spaces.Text(100, charset="abcdefghijklmnopqrstuvwxyz :")
    action_space = gym.spaces.Text(100, charset="abcdefghijklmnopqrstuvwxyz")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = ["low", "high"][self.np_random.integers(2)]
        self.turn = 0
        return f"say: {self.word}", {}

    def step(self, action):
        self.turn += 1
        right = action.strip().lower() == self.word
        return "" if right else f"no. say: {self.word}", float(right), right, self.turn >= 2, {}


gym.register("Echo-v0", entry_point=Echo)
