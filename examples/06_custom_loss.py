"""Train with a loss of your own: one function, named on the command line or in the YAML.

python examples/06_custom_loss.py train.steps=5
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from envgym import load_spec
from envgym_trainer import LossInputs, TokenLosses, TrainResult, loss, train

LOSS = f"{{name: '{Path(__file__).resolve()}:soft_clip', width: 0.5}}"


@loss(uses_ratio=True)
def soft_clip(inputs: LossInputs, *, width: float = 1.0) -> TokenLosses:
    """Return the policy-gradient loss of each token with a smooth bound of the ratio.

    Args:
        inputs: N trained tokens.
        width: Bound of the log-ratio.
    """
    log_ratio = inputs.logprobs - inputs.old_logprobs  # (N,)
    bounded = width * (log_ratio / width).tanh()
    return TokenLosses(-bounded.exp() * inputs.advantages)


def main(settings: Sequence[str] = (), out: str = "runs") -> TrainResult:
    """Train on the guessing game."""
    spec = load_spec("guess", [f"train.algorithm.loss={LOSS}", *settings])
    return train(spec, out=out, name="soft-clip")


if __name__ == "__main__":
    result = main(sys.argv[1:])
    for name, outcome in result.outcomes.items():
        print(f"{name}: {outcome.total.text()}")
    print(f"adapter: {result.adapter}")
