"""Add a part to the reward of an environment, without editing its files.

`brief` pays for few calls. Its gate opens only if the task is solved; otherwise a policy that does
nothing would earn it.

python examples/03_custom_reward.py
"""

from pathlib import Path

from envgym import Episode, Evidence, OraclePolicy, ScriptedPolicy, load_spec, make_world, play

DESK = Path(__file__).parent / "desk.yaml"
SETTINGS = (
    f"reward.brief={{from: '{Path(__file__).resolve()}:brief', weight: 0.5, gate: solved}}",
)


def brief(evidence: Evidence) -> float:
    """Return 1.0 for one call, less for each further one."""
    return 1.0 / max(1, len(evidence.calls))


def main() -> list[Episode]:
    """Play one task with its solution, and with an answer that does nothing."""
    world = make_world(load_spec(DESK, SETTINGS))
    try:
        env = world.env(split="test")
        policies = (OraclePolicy(), ScriptedPolicy(["I will not."]))
        return [play(env, policy, seed=0, task="test/move/0") for policy in policies]
    finally:
        world.close()


if __name__ == "__main__":
    for episode in main():
        terms = {name: term.contribution for name, term in episode.reward_terms.items()}
        print(f"reward {episode.reward}: {terms}")
