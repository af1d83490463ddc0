"""Train a model on an environment and print the results before and after.

python examples/05_train.py                                   # minutes on two CPU cores
python examples/05_train.py train.steps=1 train.model=tiny    # settings as on the command line
"""

import sys
from collections.abc import Sequence

from envgym import load_spec
from envgym_trainer import TrainResult, train


def main(settings: Sequence[str] = (), out: str = "runs") -> TrainResult:
    """Train on the guessing game. The result names the run folder and the adapter."""
    return train(load_spec("guess", settings), out=out, name="guess")


if __name__ == "__main__":
    result = main(sys.argv[1:])
    for name, outcome in result.outcomes.items():
        print(f"{name}: {outcome.total.text()}")
    print(f"adapter: {result.adapter}")
