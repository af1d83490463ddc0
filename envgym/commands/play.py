"""Play an episode yourself."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_env, add_seed, add_split, print_credentials

EXAMPLE = "envgym play crm --split test"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment, the task and the policy."""
    add_env(parser)
    parser.add_argument("--task", help="task id, such as test/set_phone/3 (default: random)")
    add_split(parser, "train")
    parser.add_argument(
        "--policy",
        default="human",
        help="policy: human (default), oracle, noop, random, ... (see `envgym eval --help`)",
    )
    add_seed(parser)


def run(arguments: argparse.Namespace) -> None:
    """Play one episode and print it."""
    from envgym.evaluation.episode_text import print_episode
    from envgym.evaluation.policy_worlds import PolicyWorlds
    from envgym.playing import play
    from envgym.policies.registry import open_policy

    worlds = PolicyWorlds(arguments.env, arguments.settings)
    print_credentials(worlds.spec)
    try:
        world = worlds.world_of(arguments.policy)
        policy = open_policy(arguments.policy, world)
        env = world.env(split=arguments.split)
        episode = play(env, policy, seed=arguments.seed, task=arguments.task)
        print_episode(episode, conversation=arguments.policy != "human")
    finally:
        worlds.close()
