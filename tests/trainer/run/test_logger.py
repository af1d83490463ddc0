import io
import json

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envgym.episode import Episode, Failure
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.terms import Term
from envgym_trainer.run.display import Display, clock, plain_line, seconds_left, sparkline
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import RunLogger
from envgym_trainer.run.transcripts import MAX_CHARACTERS, mask_runs, pick, transcript


def episode(reward: float | None = 1.0, answer: str = "42", **fields) -> Episode:
    trace = TokenTrace((7, 8, 9), (False, True, True), (0.0, -0.1, -0.2))
    messages = (Message("user", "What is it?"), Message("assistant", answer))
    return Episode("demo", "val/ask/3", "val", "L1", "ask", 0, messages, trace, reward, **fields)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path, "demo")


def events(run: RunFolder) -> EventAccumulator:
    return EventAccumulator(str(run.path)).Reload()


def test_a_number_stands_in_both_places(run):
    with RunLogger(run) as monitor:
        monitor.log(3, {"loss": 0.25}, phase="warmup")
    [line] = run.metrics()
    assert (line["step"], line["phase"], line["loss"]) == (3, "warmup", 0.25)
    [point] = events(run).Scalars("loss")
    assert (point.step, point.value) == (3, 0.25)


def test_numbers_can_be_read_while_the_run_goes_on(run):
    monitor = RunLogger(run)
    monitor.log(1, {"reward": 0.5})
    assert run.metrics()[0]["reward"] == 0.5
    assert events(run).Scalars("reward")[0].value == 0.5
    monitor.close()
    monitor.close()


@pytest.mark.parametrize("prefix", ["", "eval/"])
def test_a_kind_of_failure_that_did_not_happen_again_is_logged_as_zero(run, prefix):
    with RunLogger(run) as monitor:
        monitor.log(1, {prefix + "episode/void": 1, prefix + "failures/timeout": 2})
        monitor.log(2, {prefix + "episode/void": 0})
        monitor.log(3, {"loss": 0.5})  # contains no episode metrics
    assert [point.value for point in events(run).Scalars(prefix + "failures/timeout")] == [2, 0]


def test_a_share_that_is_gone_is_logged_as_zero(run):
    with RunLogger(run) as monitor:
        monitor.log(1, {"stop/answered": 0.5, "stop/length": 0.5})
        monitor.log(2, {"stop/answered": 1.0})
        monitor.log(3, {"loss": 1.0})
    _, second, third = run.metrics()
    assert second["stop/length"] == 0.0
    assert "stop/length" not in third  # a line without stop reasons leaves them out


def test_a_resumed_run_goes_on_in_time_and_replaces_later_points(run):
    with RunLogger(run) as monitor:
        monitor.log(1, {"reward": 0.1})
        monitor.log(2, {"reward": 0.2})
    with RunLogger(run) as monitor:  # opened before the lines are cut, as in a resumed run
        run.metrics_file.write_text(
            json.dumps({"step": 1, "phase": "grpo", "seconds": 100.0, "reward": 0.1}) + "\n"
        )
        monitor.log(2, {"reward": 0.9})
    assert run.metrics()[-1]["seconds"] >= 100
    assert [
        (point.step, pytest.approx(point.value)) for point in events(run).Scalars("reward")
    ] == [(1, 0.1), (2, 0.9)]


def test_settings_are_a_text_and_the_file_of_the_run_stays(run):
    run.write_config("train:\n  steps: 2\n")
    with RunLogger(run) as monitor:
        monitor.config("train:\n  steps: 3\n")
        monitor.log(1, {"reward": 0.0})
    assert run.config_file.read_text() == "train:\n  steps: 2\n"
    assert b"steps: 3" in events(run).Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_best_worst_and_random_transcripts_reach_tensorboard(run):
    with RunLogger(run) as monitor:
        monitor.transcripts(1, [episode(0.0, "wrong"), episode(1.0, "right")])
    best, worst = (
        events(run).Tensors(f"transcripts/{name}/text_summary")[0].tensor_proto
        for name in ("best", "worst")
    )
    assert b"right" in best.string_val[0]
    assert b"wrong" in worst.string_val[0]


def test_void_episodes_are_never_picked():
    assert pick([episode(None, failure=Failure("timeout", "call", "slow"))]) == {}


def test_a_transcript_shows_reward_diff_and_what_was_sampled():
    text = transcript(
        episode(
            0.7,
            reward_parts={"solved": 0.0, "format": None},
            state_diff={"contacts": {"added": []}},
            turns=1,
        )
    )
    assert "val/ask/3 · L1" in text
    assert "| solved | 0 |" in text
    assert "| format | did not apply |" in text
    assert '"contacts"' in text
    assert "3 tokens: 1 given · **2 sampled**" in text


def test_a_transcript_shows_what_each_part_said_counted_for_and_moved():
    terms = {
        "solved": Term(1.0, 1.0, 2.0),
        "polite": Term(3.0, 0.0, 0.5, gate_is_open=False),
        "form": Term(None, None, 1.0),
    }
    told = {"reward_parts": {"solved": 1.0, "polite": 3.0, "form": None}, "reward_terms": terms}
    text = transcript(
        episode(2.0, **told, advantage=0.75, advantage_parts={"solved": 1.25, "overlong": -0.5})
    )
    assert "| part | raw value | weight | contribution | share of advantage |" in text
    assert "| solved | 1 | 2 | 2 | +1.25 |" in text
    assert "| polite | 3 | 0.5 | 0 | +0 |" in text
    assert "| form | did not apply | 1 | 0 | +0 |" in text
    assert "| overlong | | | | -0.5 |" in text
    # the group was excluded from training
    assert "| solved | 1 | 2 | 2 |  |" in transcript(episode(2.0, **told))


def test_with_a_decoder_the_sampled_text_is_marked():
    assert "7 ⟦8 9⟧" in transcript(
        episode(), decode=lambda ids: " ".join(map(str, ids)) + (" " if ids[0] == 7 else "")
    )


def test_back_ticks_in_a_message_cannot_end_its_block():
    assert "````\n```json\n{}\n```\n````" in transcript(episode(answer="```json\n{}\n```"))


def test_an_endless_transcript_is_cut_and_says_so():
    text = transcript(episode(answer="x" * 50_000))
    assert len(text) < MAX_CHARACTERS + 100
    assert text.endswith("characters cut")


def test_runs_of_the_mask():
    assert mask_runs((False, False, True, False)) == [(False, 2), (True, 1), (False, 1)]


def test_without_a_terminal_each_step_is_one_line():
    out = io.StringIO()
    with Display({"grpo": 60}, console=Console(file=out, width=80)) as display:
        numbers = {
            "success": 0.5,
            "reward": 0.61,
            "rewards/solved/mean": 0.5,
            "throughput/tokens_per_second": 1234.0,
        }
        display.update("grpo", 3, numbers)
    assert (
        out.getvalue() == "GRPO 3/60 · success 0.5 · reward 0.61 · solved 0.50 · 1,234 tokens/s\n"
    )


def test_on_a_terminal_the_panel_shows_phase_progress_and_curve():
    out = io.StringIO()
    with Display({"grpo": 8}, console=Console(file=out, width=100, force_terminal=True)) as display:
        display.update("grpo", 1, {"success": 0.0})
        display.update("grpo", 2, {"success": 1.0})
    assert "2/8" in out.getvalue()
    assert "▁█" in out.getvalue()


def test_time_left_goes_by_the_usual_pace_not_by_one_slow_step():
    times = [(0.0, 0), (2.0, 1), (4.0, 2), (60.0, 3), (62.0, 4)]  # steps of 2, 2, 56 and 2 seconds
    assert seconds_left(times, total=10) == 12.0
    assert seconds_left(times[:1], total=10) is None


def test_a_line_names_the_time_left():
    assert (
        plain_line("warmup", 5, 40, {"loss": 1.2345}, 75.0)
        == "warm-up 5/40 · loss 1.23 · 1:15 left"
    )


def test_clocks_and_sparklines():
    assert (clock(75), clock(3725), clock(4.4)) == ("1:15", "1:02:05", "0:04")
    assert sparkline([-1.0, 0.0, 0.5, 1.0]) == "▁▁▅█"
