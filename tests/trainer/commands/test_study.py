"""`envgym study` compares several ways to train: its runs, its files and its table."""

import textwrap

import pytest
import yaml
from rich.console import Console

from envgym.commands import main
from envgym.errors import UsageError
from envgym.evaluation.report import Count, Outcome
from envgym_trainer.commands.study import arms
from envgym_trainer.commands.study.arms import (
    Arm,
    Result,
    Study,
    baselines,
    own_arms,
    table,
    to_markdown,
)
from envgym_trainer.run.folder import RunFolder

SMALL = [
    "train.warm_start.episodes=16",
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.rollout.group_size=2",
    "train.evaluation.tasks=4",
]


def result(name: str, *solved: int, of: int = 100) -> Result:
    return Result(Arm(name, name), tuple(Outcome(name, Count(each, of)) for each in solved))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Run `envgym study baselines` with two seeds. Return its output folder."""
    out = tmp_path_factory.mktemp("study")
    assert main(["study", "baselines", "guess", *SMALL, "--seeds", "2", "--out", str(out)]) == 0
    return out


def test_baselines_are_three_runs_a_seed(made):
    runs = sorted(path.name for path in made.iterdir() if path.is_dir())
    assert runs == [
        "grpo-seed0",
        "grpo-seed1",
        "sft-grpo-seed0",
        "sft-grpo-seed1",
        "sft-seed0",
        "sft-seed1",
    ]
    assert all((made / run / "adapter").is_dir() for run in runs)


def test_the_table_stands_beside_the_runs(made):
    said = (made / "baselines.md").read_text()
    assert [line.split(" | ")[0] for line in said.splitlines()[2:6]] == [
        "| base",
        "| SFT",
        "| GRPO",
        "| SFT+GRPO",
    ]
    assert "Share of 4 held-out tasks solved, mean over 2 seeds" in said


def test_finished_runs_are_not_made_again_and_others_go_on(made, capsys):
    (made / "grpo-seed1/outcomes.json").unlink()  # as if the study had been stopped at the very end
    before = [RunFolder(made / run).metrics() for run in ("sft-grpo-seed0", "grpo-seed1")]
    assert main(["study", "baselines", "guess", *SMALL, "--seeds", "2", "--out", str(made)]) == 0
    assert capsys.readouterr().out.count("already finished") == 5
    assert [RunFolder(made / run).metrics() for run in ("sft-grpo-seed0", "grpo-seed1")] == before


def test_runs_of_other_settings_are_never_taken_for_these(made, capsys):
    assert (
        main(
            [
                "study",
                "baselines",
                "guess",
                *SMALL,
                "train.rollout.temperature=0.5",
                "--seeds",
                "1",
                "--out",
                str(made),
            ]
        )
        == 2
    )
    assert (
        "was made with other settings. Choose another folder with --out" in capsys.readouterr().err
    )


def test_the_example_of_the_docstring_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = textwrap.dedent(arms.Study.__doc__.partition("Example:\n")[2])
    exec(example, vars(arms).copy())
    assert (tmp_path / "runs" / "study" / "sft-grpo-seed0" / "adapter").is_dir()
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("held-out tasks solved", "base", "SFT+GRPO"))


def test_algorithms_share_one_warm_start_and_each_ends_as_a_run_of_its_own_would(tmp_path):
    # group members must differ to give a gradient
    (tmp_path / "parts.py").write_text(
        "def brief(evidence): return len(evidence.final_message) / 100\n"
    )
    settings = [
        *SMALL,
        "train.rollout.deterministic=true",
        f"reward.brief={{from: {tmp_path}/parts.py:brief, weight: 1.0}}",
    ]
    assert (
        main(
            [
                "study",
                "algorithms",
                "guess",
                *settings,
                "--names",
                "gspo,turns",
                "--seeds",
                "1",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    said = (tmp_path / "algorithms.md").read_text()
    assert [line.split(" | ")[0] for line in said.splitlines()[2:5]] == [
        "| SFT",
        "| gspo",
        "| turns",
    ]
    warm, *others = (RunFolder(tmp_path / f"{name}-seed0") for name in ("sft", "gspo", "turns"))
    assert {line["phase"] for line in warm.metrics()} == {"warmup", "eval"}
    assert all(run.metrics()[: len(warm.metrics())] == warm.metrics() for run in others)
    assert (
        main(
            [
                "train",
                "guess",
                *settings,
                "train.algorithm=turns",
                "--out",
                str(tmp_path),
                "--name",
                "alone",
            ]
        )
        == 0
    )
    adapters = [
        (tmp_path / run / "adapter/adapter_model.safetensors").read_bytes()
        for run in ("turns-seed0", "alone", "gspo-seed0")
    ]
    assert adapters[0] == adapters[1] != adapters[2]


def test_arms_given_to_another_study_are_not_passed_over(tmp_path, capsys):
    assert main(["study", "baselines", "guess", "--arm", "a", "--out", str(tmp_path)]) == 2
    assert "belong to `envgym study arms`" in capsys.readouterr().err


def test_an_arm_that_cannot_be_is_told_before_any_run(tmp_path):
    study = Study(baselines(), (0,), "guess", ["train.warm_start.episodes=0"], tmp_path)
    with pytest.raises(
        UsageError, match=r"arm 'SFT' needs a warm start.*Set train.warm_start.episodes=64"
    ):
        study.run(Console())
    assert list(tmp_path.iterdir()) == []


def test_gains_are_paired_by_seed_and_intervals_hold_what_seeds_and_tasks_leave_open():
    # 150 - 60 of 300: Newcombe's interval is wider than that of three equal gains, which is empty
    results = [result("base", 10, 20, 30), result("trained", 40, 50, 60)]
    assert table(results) == [
        ("arm", "solved", "more than base", "each seed"),
        ("base", "20 % (0 to 45)", "", "10 20 30"),
        ("trained", "50 % (25 to 75)", "+30 % (+23 to +37)", "40 50 60"),
    ]


@pytest.mark.parametrize("solved", [0, 1, 12, 23, 24])
def test_seeds_that_agree_still_leave_the_chance_of_their_tasks(solved):
    results = [result(name, *[solved] * 3, of=24) for name in ("base", "trained")]
    for cell in (table(results)[1][1], table(results)[2][1], table(results)[2][2]):
        low, high = cell.partition("(")[2].rstrip(")").split(" to ")
        assert float(low) < float(high)


def test_a_study_never_rounds_to_all_or_none():
    shown = table([result("base", 999, 998, of=1000), result("trained", 1, 2, of=1000)])
    assert shown[1][1].startswith("99.8 % (")
    assert shown[1][3] == "99.9 99.8"
    assert shown[2][1].startswith("0.1 % (")


def test_a_single_seed_has_no_interval():
    assert table([result("base", 10)])[1] == ("base", "10 %", "", "10")
    assert "| base | 10 % |  | 10 |" in to_markdown([result("base", 10)])


def test_arms_of_ones_own_differ_in_their_settings_alone(tmp_path):
    arms = [
        "--arm",
        "fixed",
        "--arm",
        "spread: train.reward_weights.mode=spread train.algorithm.kl.coef=0.01",
    ]
    assert (
        main(
            [
                "study",
                "arms",
                "guess",
                *SMALL,
                *arms,
                "--after-sft",
                "--seeds",
                "1",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    said = (tmp_path / "arms.md").read_text()
    assert [line.split(" | ")[0] for line in said.splitlines()[2:5]] == [
        "| SFT",
        "| fixed",
        "| spread",
    ]
    warm, fixed, spread = (
        RunFolder(tmp_path / f"{name}-seed0") for name in ("sft", "fixed", "spread")
    )
    assert all(run.metrics()[: len(warm.metrics())] == warm.metrics() for run in (fixed, spread))
    told = [yaml.safe_load(run.config_file.read_text())["train"] for run in (fixed, spread)]
    assert [train["algorithm"]["kl"]["coef"] for train in told] == [0.0, 0.01]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["one"], "compares two or more"),
        (["a/b", "c"], "--arm 'a/b': 'a/b' must be a new name"),
        (["a", "a: train.steps=1"], "'a' must be a new name"),
        (["a", "b: reward.x='"], "settings cannot be parsed"),
        (["sft", "a"], "'sft' must be a new name"),
    ],
)
def test_arms_that_cannot_be_told_apart_are_refused(texts, said):
    with pytest.raises(UsageError, match=said):
        own_arms(texts, after_sft=False)
