import json

import pytest

from benchmarks.learning_curve import curve, held_out, main, mean_and_band, smooth


def line(step: int, phase: str, **numbers) -> dict:
    return {"step": step, "phase": phase, "seconds": 0.0, **numbers}


@pytest.fixture
def run(tmp_path):
    lines = [line(1, "warmup", loss=1.0), line(1, "eval", **{"eval/success": 0.25, "eval/n": 40.0})]
    lines += [line(2, "grpo", success=0.5), line(3, "grpo", success=None)]
    lines += [
        line(3, "eval", **{"eval/success": 0.75, "eval/n": 40.0}),
        line(3, "eval", **{"val/success": 0.5}),
    ]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    return tmp_path


def test_a_step_without_a_number_is_no_zero():
    assert curve(
        [line(2, "grpo", success=0.5), line(3, "grpo", success=None), line(4, "eval")],
        "success",
        phase="grpo",
    ) == [(2, 0.5)]


def test_smoothing_looks_back_only():
    assert smooth([(1, 0.0), (2, 1.0), (3, 0.5)], window=2) == [(1, 0.0), (2, 0.5), (3, 0.75)]


def test_the_band_spans_the_runs_that_have_the_step():
    assert mean_and_band([[(1, 0.0), (2, 0.2)], [(1, 1.0)]]) == [
        (1, 0.5, 0.0, 1.0),
        (2, 0.2, 0.2, 0.2),
    ]


def test_held_out_points_are_counts():
    [(step, count)] = held_out(
        [
            line(7, "eval", **{"eval/success": 0.75, "eval/n": 40.0}),
            line(8, "eval", **{"val/success": 1.0}),
        ]
    )
    assert (step, count.successes, count.n) == (7, 30, 40)


def test_the_table_pools_seeds_and_the_picture_is_a_png(run, capsys):
    assert main([str(run / "a"), str(run / "b"), "--out", str(run / "docs" / "curve.png")]) == 0
    assert "pooled  1: 25 % (17-35)   3: 75 % (65-83)" in capsys.readouterr().out  # 20 and 60 of 80
    assert (run / "docs" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "nothing has no metrics.jsonl" in capsys.readouterr().err
