"""Play with a trained adapter.

python examples/07_load_adapter.py runs/guess/adapter
"""

import sys
from pathlib import Path

from envgym import Outcome, evaluate, load_spec, make_world, open_policy


def main(adapter: str | Path, tasks: int = 40) -> Outcome:
    """Evaluate the adapter on test tasks of the guessing game, greedily as in the manifest."""
    world = make_world(load_spec("guess"))
    policy = open_policy(f"adapter:{adapter}", world)
    try:
        return evaluate(world, policy, name="adapter", tasks=tasks, progress=False)
    finally:
        world.close()


if __name__ == "__main__":
    outcome = main(sys.argv[1])
    print(f"{outcome.policy}: {outcome.total.text()}")
