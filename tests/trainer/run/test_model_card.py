import shlex
from dataclasses import replace

import pytest
import yaml

from envgym.evaluation.report import Count, Outcome
from envgym.spec.reward import PartSpec
from envgym_trainer.config.server_limits import max_lora_rank
from envgym_trainer.run.model_card import CardFacts, ServingFacts, model_card, serve_command

FACTS = CardFacts(
    name="guess",
    base_model="org/base",
    env_id="envgym/guess-v0",
    env_description="Find a number.",
    outcomes=[
        Outcome("base model", Count(0, 100), played=100),
        Outcome("trained", Count(90, 100), played=100),
    ],
    eval_tasks="100 tasks of split test, greedy",
    reward={
        "solved": PartSpec.model_validate({"from": "state_match"}),
        "short": PartSpec.model_validate({"from": "brief", "weight": 0.0}),
    },
    recipe={"warm start": "320 oracle episodes"},
    rank=16,
    alpha=32.0,
    versions={"peft": "0.21"},
    base_license="apache-2.0",
)


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def code(card: str, language: str) -> str:
    return card.split(f"```{language}\n")[1].split("\n```")[0]


def test_the_front_matter_is_what_the_hub_reads():
    head = front_matter(model_card(FACTS))
    assert (head["library_name"], head["base_model"], head["license"]) == (
        "peft",
        "org/base",
        "apache-2.0",
    )
    assert {"lora", "grpo", "envgym"} <= set(head["tags"])


def test_a_licence_that_nobody_knows_is_not_claimed():
    assert "license" not in front_matter(model_card(replace(FACTS, base_license=None)))


def test_names_from_a_user_cannot_break_the_front_matter():
    assert (
        front_matter(model_card(replace(FACTS, base_model="./a: b\n#c")))["base_model"]
        == "./a: b\n#c"
    )


def test_results_before_and_after_stand_side_by_side_with_intervals():
    card = model_card(FACTS)
    assert "| level | base model | trained |" in card
    assert "| all | 0 % (0-4) | 90 % (83-94) |" in card
    assert "trained is 90 points above base model" in card


def test_without_an_evaluation_there_are_no_results():
    assert "Results" not in model_card(replace(FACTS, outcomes=[]))


def test_a_part_of_weight_zero_is_called_a_metric():
    assert "| short | 0 (reported, not rewarded) |" in model_card(FACTS)


def test_each_part_is_listed_with_its_range_clip_and_per_turn_rule():
    parts = {
        "right": {"from": "toolrl_correctness", "range": [-3, 3], "clip": [-2, 2]},
        "polite": {"from": "r.py:polite", "weight": {0: 0.0, 100: 0.5}, "gate": "right"},
        "calls": {"from": "r.py:calls", "per": "call", "scale": "running"},
    }
    rules = {name: PartSpec.model_validate(part) for name, part in parts.items()}
    lines = model_card(replace(FACTS, reward=rules)).splitlines()
    assert "| part | weight | range | clip | paid |" in lines
    assert "| right | 1 | -3 to 3 | -2 to 2 | once, at the end |" in lines
    polite = "once, at the end, only if right is at least 1"
    assert f"| polite | 0 at step 0, 0.5 at step 100 | 0 to 1 | none | {polite} |" in lines
    running = "divided by its running standard deviation during training"
    assert f"| calls | 1 | 0 to 1 | none | at each tool call; {running} |" in lines


def test_the_card_claims_no_range_that_a_part_does_not_have():
    assert "between 0 and 1" not in model_card(FACTS)


def test_the_python_in_the_card_compiles():
    compile(code(model_card(FACTS), "python"), "card", "exec")


def test_the_serve_command_names_base_rank_and_adapter():
    words = shlex.split(code(model_card(FACTS), "bash"))
    assert words == [
        "vllm",
        "serve",
        "org/base",
        "--enable-lora",
        "--max-lora-rank",
        "16",
        "--lora-modules",
        "guess=.",
        "--chat-template",
        "chat_template.jinja",
    ]


def test_the_card_names_the_parser_and_the_system_message_of_clients():
    serving = ServingFacts("text", "pythonic", parser="envgym", plugin="tool_parser.py")
    card = model_card(replace(FACTS, system="Be ```brief```.", serving=serving))
    command = shlex.split(code(card, "bash"))
    assert command[-5:] == [
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "envgym",
        "--tool-parser-plugin",
        "tool_parser.py",
    ]
    assert "````text\nBe ```brief```.\n````" in card
    assert "arrive as text" not in card


def test_the_card_tells_what_a_server_cannot_do():
    serving = ServingFacts("text", "x", parser=None, writes_history=False)
    card = model_card(replace(FACTS, serving=serving))
    assert "vLLM has no parser for calls in the form `x`: they arrive as text" in card
    assert "cannot write earlier calls" in card


@pytest.mark.parametrize(
    ("rank", "limit"), [(4, 8), (8, 8), (12, 16), (16, 16), (17, 32), (512, 512)]
)
def test_the_served_rank_is_one_that_vllm_takes(rank, limit):
    assert max_lora_rank(rank) == limit


def test_a_rank_that_vllm_cannot_serve_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"Train with train\.lora\.rank=512 or less"):
        max_lora_rank(513)


def test_a_path_with_spaces_survives_the_shell():
    assert (
        shlex.split(serve_command("org/base", "crm", "runs/my crm/adapter", rank=8))[-3]
        == "crm=runs/my crm/adapter"
    )
