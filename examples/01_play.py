"""Play one episode of a bundled environment and take its reward apart.

python examples/01_play.py
"""

from envgym import Episode, OraclePolicy, load_spec, make_world, play


def main() -> Episode:
    """Play a test task of the CRM with the hidden solution of the task."""
    world = make_world(load_spec("crm"))
    try:
        env = world.env(split="test")
        return play(env, OraclePolicy(), seed=0, task="test/set_phone/0")
    finally:
        world.close()


if __name__ == "__main__":
    episode = main()
    for message in episode.messages:
        print(f"[{message.role}] {message.content}")
    for name, term in episode.reward_terms.items():
        print(f"{name}: {term.value} x {term.weight}")
    print(f"reward {episode.reward}, solved: {episode.success}")
