"""Compare policies on the same held-out tasks: an oracle, a floor and a policy of your own.

python examples/04_evaluate_policies.py
"""

from envgym import Outcome, ScriptedPolicy, Task, evaluate, load_spec, make_world, open_policy

GUESSES = (8, 4, 12, 2, 14)


def fixed_guesses(task: Task | None, turn: int) -> str:
    """Return the answer of a policy that guesses the same numbers in every task."""
    return f"guess(number={GUESSES[turn]})" if turn < len(GUESSES) else "Done."


def main() -> list[Outcome]:
    """Play 40 test tasks of the guessing game with each policy."""
    world = make_world(load_spec("guess"))
    policies = {
        "oracle": open_policy("oracle", world),
        "random": open_policy("random", world),
        "fixed": ScriptedPolicy(fixed_guesses),
    }
    try:
        return [
            evaluate(world, policy, name=name, tasks=40, progress=False)
            for name, policy in policies.items()
        ]
    finally:
        world.close()


if __name__ == "__main__":
    for outcome in main():
        print(f"{outcome.policy}: {outcome.total.text()}")
