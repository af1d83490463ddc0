"""An evaluation measures what was asked for, loses no episode, and fails if it measured nothing."""

import _thread
import json
from pathlib import Path

import pytest

from envgym.commands import main
from envgym.env import ToolWorld
from envgym.episode import Episode
from envgym.errors import SpecError, TooManyFailures, UsageError
from envgym.evaluation.evaluate import evaluate
from envgym.playing import Request, play, play_many
from envgym.policies.noop import NoopPolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.registration import make_world
from envgym.spec.environment import load_spec
from tests.fakes.shop_env import shop


@pytest.fixture
def world(tmp_path):
    world = ToolWorld(shop(tmp_path))
    yield world
    world.close()


@pytest.fixture
def yaml(tmp_path) -> str:
    return str(shop(tmp_path).path)


def records(file: Path) -> list[Episode]:
    return [Episode.from_json(line) for line in file.read_text().splitlines()]


# --- selection ---


@pytest.mark.parametrize(
    "words",
    [
        ["--tasks", "0"],
        ["--tasks", "-3"],
        ["--tasks", "1.5"],
        ["--tasks", "²"],
        ["--workers", "0"],
        ["--workers", "-1"],
        ["--seed", "-1"],
        ["--temperature", "nan"],
        ["--temperature", "-1"],
        ["--max-turn-tokens", "0"],
        ["--levels", ","],
        ["--levels", "L0,,L1"],
        ["--levels", ""],
        ["--levels", "L9"],
        ["--levels", "L0,L9"],
        ["--policy", "oracle"],
        ["tasks.levels=[L0, L9]"],
        ["tasks.test=0"],
    ],
)
def test_a_wrong_selection_is_an_error_before_anything_is_played(yaml, words, capsys):
    try:
        code = main(["eval", yaml, "--policy", "oracle", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    printed = capsys.readouterr()
    assert (printed.out, "Traceback" in printed.err) == ("", False)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"tasks": 0}, UsageError, "tasks is 0; an evaluation needs at least 1"),
        ({"tasks": -1}, UsageError, "tasks is -1"),
        ({"workers": 0}, UsageError, "workers is 0; an evaluation needs at least 1"),
        ({"seed": -1}, UsageError, "seed is -1; an evaluation needs at least 0"),
        ({"levels": ["L0", "l1"]}, SpecError, "split 'test' has no level 'l1'; levels: L0, L1"),
    ],
)
def test_the_function_refuses_the_same(world, options, error, told):
    with pytest.raises(error, match=told):
        evaluate(world, NoopPolicy(), name="noop", progress=False, **options)


def test_a_foreign_environment_has_no_levels_to_select(tmp_path):
    (tmp_path / "echo.yaml").write_text("id: test/echo-v0\ngym: tests.fakes.echo_env:Echo-v0\n")
    world = make_world(load_spec(tmp_path / "echo.yaml"))
    with pytest.raises(SpecError, match="has no level 'L0'; levels: none"):
        evaluate(world, NoopPolicy(), name="noop", levels=["L0"], progress=False)
    world.close()


# --- nothing measured ---


def broken_policy():
    def fail(task, turn):
        raise RuntimeError("no answer")

    return ScriptedPolicy(fail)


def test_an_evaluation_in_which_all_is_void_fails(world):
    with pytest.raises(TooManyFailures, match="nothing was measured") as caught:
        evaluate(world, broken_policy(), name="broken", tasks=3, progress=False)
    assert "policy_failed in policy" in str(caught.value)
    assert "no answer" in str(caught.value)


@pytest.mark.parametrize("tasks", ["1", "5", "30"])
def test_its_command_exits_with_1_at_any_size(tmp_path, yaml, tasks, capsys):
    (tmp_path / "mine.py").write_text(
        "from envgym import ScriptedPolicy\n\n"
        "def fail(argument, world):\n    return ScriptedPolicy(lambda task, turn: 1 / 0)\n"
    )
    words = ["eval", yaml, "--policy", f"{tmp_path}/mine.py:fail", "--tasks", tasks]
    assert main(words) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_what_was_measured_before_an_error_is_printed(tmp_path, yaml, capsys):
    words = ["eval", yaml, "--policy", "oracle", "--policy", "nosuch", "--tasks", "2"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert "100 %" in printed.out
    assert "no policy 'nosuch'" in printed.err


# --- one episode never ends the others ---


class Stop(BaseException):
    """An exception that `except Exception` does not catch."""


@pytest.mark.parametrize("error", [AttributeError, SystemExit, Stop, RecursionError, StopIteration])
@pytest.mark.parametrize("place", ["open", "reply", "observe", "trace", "close"])
def test_an_exception_of_a_policy_voids_its_episode_alone(world, error, place):
    bad = "test/reprice/1"

    class Failing(ScriptedPolicy):
        def open(self, messages, tools, *, seed, task=None):
            dialogue = super().open(messages, tools, seed=seed, task=task)
            if task.id == bad and place == "open":
                raise error("broken")
            if task.id == bad:
                setattr(dialogue, place, fail)
            return dialogue

    def fail(*arguments):
        raise error("broken")

    ids = world.tasks.ids("test", count=3)
    episodes = play_many(
        world.env, Failing(["tell(text='a')", "Done."]), [Request(task, 0) for task in ids]
    )
    assert [episode.task_id for episode in episodes] == ids
    voids = [episode for episode in episodes if episode.is_void]
    if place == "close":
        assert not voids
    else:
        assert [episode.task_id for episode in voids] == [bad]
        assert "broken" in voids[0].failure.message


@pytest.mark.parametrize("error", [KeyError, SystemExit, Stop])
def test_an_exception_of_an_environment_voids_its_episode_alone(world, error):
    calls = []

    def make():
        env = world.env()
        real = env.step

        def step(action):
            calls.append(action)
            if len(calls) in (1, 2):
                raise error("broken")
            return real(action)

        env.step = step
        return env

    requests = [Request(task, 0) for task in world.tasks.ids("test", count=3)]
    episodes = play_many(make, NoopPolicy(), requests, workers=1)
    assert [episode.is_void for episode in episodes] == [True, False, False]
    assert episodes[0].failure.kind == "env_raised"


@pytest.mark.parametrize(
    "info",
    [
        {"task": "a text"},
        {"messages": [{"content": "no role"}]},
        {"messages": 7},
        {"tools": 3, "messages": [{"role": "user", "content": [{"text": "in parts"}]}]},
    ],
)
def test_an_info_of_any_form_ends_one_episode_at_most(world, info):
    class Odd:
        metadata: dict = {}  # noqa: RUF012

        def reset(self, **options):
            return "go", info

        def step(self, action):
            return "", 1.0, True, False, {"stop_reason": ["odd"], "success": True}

        def close(self):
            pass

    episode = play(Odd(), NoopPolicy(), seed=0)  # type: ignore[arg-type]
    assert Episode.from_json(episode.to_json()).seed == 0


def test_a_users_mistake_ends_the_evaluation_only_if_nothing_was_played(world):
    def refuse(task, turn):
        raise UsageError("no such model")

    requests = [Request(task, 0) for task in world.tasks.ids("test", count=3)]
    with pytest.raises(UsageError, match="no such model"):
        play_many(world.env, ScriptedPolicy(refuse), requests)

    def refuse_one(task, turn):
        if task.id == "test/reprice/1":
            raise UsageError("the key is no longer valid")
        return "Done."

    episodes = play_many(world.env, ScriptedPolicy(refuse_one), requests, workers=1)
    assert [episode.is_void for episode in episodes] == [
        episode.task_id == "test/reprice/1" for episode in episodes
    ]
    assert any(episode.is_void for episode in episodes)


# --- the file of episodes ---


@pytest.mark.parametrize("name", ["none/such/e.jsonl", ".", "a\0b"])
def test_a_file_that_cannot_be_written_is_found_before_the_first_episode(
    world, yaml, tmp_path, monkeypatch, name, capsys
):
    monkeypatch.chdir(tmp_path)
    played = []
    policy = ScriptedPolicy(lambda task, turn: played.append(task) or "Done.")
    with pytest.raises(UsageError, match="episodes cannot be written"):
        evaluate(world, policy, name="x", tasks=1, progress=False, episodes_file=name)
    assert not played
    assert main(["eval", yaml, "--policy", "oracle", "--episodes", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_full_disk_is_an_error_of_one_line(yaml, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    words = ["eval", yaml, "--policy", "oracle", "--tasks", "2", "--episodes", "/dev/full"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert "No space left on device" in printed.err
    assert "Traceback" not in printed.err


def test_each_record_names_its_policy_and_a_torn_line_is_ended(yaml, tmp_path, capsys):
    file = tmp_path / "episodes.jsonl"
    file.write_text('{"torn": ')
    words = ["eval", yaml, "--policy", "oracle", "--policy", "noop", "--tasks", "2"]
    assert main([*words, "--episodes", str(file), "--json"]) == 0
    first, *lines = file.read_text().splitlines()
    assert first == '{"torn": '
    policies = [Episode.from_json(line).policy for line in lines]
    assert policies == ["oracle", "oracle", "noop", "noop"]
    assert [each["policy"] for each in json.loads(capsys.readouterr().out)] == ["oracle", "noop"]


def test_each_episode_is_on_disk_when_it_ends(world, tmp_path):
    file = tmp_path / "episodes.jsonl"
    seen = []

    def say(task, turn):
        seen.append(len(records(file)) if file.exists() else 0)
        return "Done."

    evaluate(
        world,
        ScriptedPolicy(say),
        name="say",
        tasks=3,
        workers=1,
        progress=False,
        episodes_file=file,
    )
    assert len(records(file)) == 3
    assert max(seen) >= 1


def test_episodes_before_an_interrupt_are_kept(world, tmp_path):
    def say(task, turn):
        if task.id == "test/reprice/1":
            _thread.interrupt_main()  # as Ctrl-C does
        return "Done."

    with pytest.raises(KeyboardInterrupt):
        evaluate(
            world,
            ScriptedPolicy(say),
            name="say",
            tasks=3,
            workers=1,
            progress=False,
            episodes_file=tmp_path / "e.jsonl",
        )
    kept = [episode.task_id for episode in records(tmp_path / "e.jsonl")]
    assert kept[0] == "test/reprice/0"
    assert "test/reprice/1" in kept  # it ended while the program was stopping
