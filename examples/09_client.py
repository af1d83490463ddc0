"""Play the guessing game with a served model, through OpenAI's client and `tools=`.

envgym serve runs/guess
python examples/09_client.py http://127.0.0.1:8000/v1 guess
"""

import json
import sys

import openai

import envgym


def main(url: str, model: str, tasks: int = 40) -> float:
    """Return the fraction of test tasks that the model solves."""
    client = openai.OpenAI(base_url=url, api_key="none")
    env = envgym.make("guess", overrides=["prompt.rendering=native"], split="test")
    solved = sum(play(env, client, model, seed) for seed in range(tasks))
    env.close()
    return solved / tasks


def play(env, client: openai.OpenAI, model: str, seed: int) -> bool:
    """Play one task: every call of the model is an action, every observation a tool message."""
    _, info = env.reset(seed=seed)
    messages, tools = list(info["messages"]), info["tools"]
    while True:
        answer = client.chat.completions.create(model=model, messages=messages, tools=tools)
        message = answer.choices[0].message
        messages.append(message)
        action, reply = message.content or "", {"role": "tool"}
        if message.tool_calls:
            call = message.tool_calls[0]
            reply["tool_call_id"] = call.id
            arguments = json.loads(call.function.arguments)
            action = json.dumps({"name": call.function.name, "arguments": arguments})
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return bool(info["success"])
        messages.append({**reply, "content": observation})


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:3]):.0%} solved")
