"""Register an own environment with Gymnasium and step it with plain text.

The environment is `desk.yaml` with four small files in `desk/`: the tables, a function that fills
them, one tool, and a template of tasks.

python examples/02_own_environment.py
"""

from pathlib import Path

import gymnasium as gym

import envgym

DESK = Path(__file__).parent / "desk.yaml"


def main() -> tuple[str, float, bool]:
    """Solve one task by hand: read the request, call the tool, say that it is done."""
    env = gym.make(envgym.register(DESK), split="test")
    request, info = env.reset(seed=0, options={"task": "test/move/0"})
    print(f"{info['task']['id']}: {request}")
    words = request.replace(".", "").split()
    meeting = next(word for word in words if word.startswith("M") and word[1:].isdigit())
    room = next(word for word in words if word.isdigit())
    answer, _, _, _, _ = env.step(f"set_room(meeting='{meeting}', room={room})")
    _, reward, terminated, _, info = env.step("Done.")
    env.close()
    print(f"tool: {answer}, reward {reward}, solved: {info['success']}")
    return answer, float(reward), terminated


if __name__ == "__main__":
    main()
