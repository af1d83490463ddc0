"""UnicodeText contains every string, and vector environments return observations unchanged."""

import contextlib
import gc
import pickle
import tempfile
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.spaces import UnicodeText

PROSE = "Zoë asked:\n“größer than 3 €?” 日本 𝄞 \x00"


class Echo(gym.Env):
    """Environment that returns the step number and the action, and ends on the action `end`."""

    observation_space = UnicodeText()
    action_space = UnicodeText(max_length=10_000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.said = 0
        return f"{PROSE} {self.np_random.integers(10**6)}", {}

    def step(self, action):
        self.said += 1
        return f"{self.said}: {action}", 0.0, action == "end", False, {}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    gym.register("envgym-test/Echo-v0", entry_point=Echo)
    yield
    del gym.registry["envgym-test/Echo-v0"]


@settings(deadline=None)
@given(st.text())
def test_every_string_is_inside(text):
    assert text in UnicodeText()


def test_the_limit_counts_characters_and_other_types_are_outside():
    space = UnicodeText(max_length=3)
    assert [text in space for text in ("", "日本語", "four")] == [True, True, False]
    assert all(thing not in space for thing in (None, 3, b"abc", ["a"]))


def test_samples_are_inside_and_the_same_for_a_seed():
    first = UnicodeText(max_length=20, seed=7)
    second = UnicodeText(max_length=20, seed=7)
    drawn = [first.sample() for _ in range(50)]
    assert drawn == [second.sample() for _ in range(50)]
    assert all(text in first for text in drawn)
    assert len(set(drawn)) > 10


def test_an_empty_space_samples_the_empty_string():
    assert UnicodeText(max_length=0).sample() == ""


def test_equality_repr_json_and_pickle():
    space = UnicodeText(max_length=5)
    assert space == UnicodeText(max_length=5) != UnicodeText()
    assert repr(space) == "UnicodeText(max_length=5)"
    assert space.from_jsonable(space.to_jsonable(["a", "日"])) == ["a", "日"]
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        UnicodeText(max_length=-1)


def test_a_batch_is_a_tuple_of_texts():
    batch = batch_space(UnicodeText(seed=1), 3)
    assert ("a", "日", "") in batch
    assert batch.sample() in batch


@pytest.mark.filterwarnings("error")
def test_check_env_is_silent():
    check_env(gym.make("envgym-test/Echo-v0").unwrapped, skip_render_check=True)


VECTORS = [
    ("sync", {}),
    ("async", {}),
    ("async", {"shared_memory": False}),
    ("async", {"copy": False}),
    ("async", {"context": "spawn"}),
]


@pytest.mark.parametrize(("mode", "options"), VECTORS, ids=str)
def test_vector_environments_give_the_right_strings(mode, options):
    if options.get("context") == "spawn" and mode == "async":
        vector = gym.vector.AsyncVectorEnv([Echo, Echo, Echo], **options)
    else:
        vector = gym.make_vec(
            "envgym-test/Echo-v0", num_envs=3, vectorization_mode=mode, vector_kwargs=options
        )
    alone = [Echo().reset(seed=seed)[0] for seed in (5, 6, 7)]
    with contextlib.closing(vector):
        assert tuple(vector.reset(seed=5)[0]) == tuple(alone)
        long = "x" * 9_999
        assert tuple(vector.step((PROSE, long, ""))[0]) == (f"1: {PROSE}", f"1: {long}", "1: ")
        assert tuple(vector.step(["end", "b", "c"])[0]) == ("2: end", "2: b", "2: c")


def test_copies_stay_as_they_were_when_the_environments_go_on():
    with contextlib.closing(
        gym.make_vec("envgym-test/Echo-v0", num_envs=2, vectorization_mode="async")
    ) as vector:
        vector.reset(seed=0)
        first = vector.step(("a", "b"))[0]
        vector.step(("c", "d"))
        assert first == ("1: a", "1: b")
        assert first in vector.observation_space


def test_texts_inside_a_dict_space_are_right_too():
    class Pair(gym.Env):
        observation_space = gym.spaces.Dict(text=UnicodeText(), count=gym.spaces.Discrete(9))
        action_space = UnicodeText()

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"text": PROSE, "count": 0}, {}

        def step(self, action):
            return {"text": action, "count": 1}, 0.0, False, False, {}

    vector = gym.vector.AsyncVectorEnv([Pair, Pair])
    vector.reset()
    seen = vector.step(("日", "b c"))[0]
    vector.close()
    assert seen["text"] == ("日", "b c")
    assert seen["count"].tolist() == [1, 1]


def test_nothing_is_left_in_the_temporary_folder():
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob("envgym-text-*"))
    vector = gym.make_vec("envgym-test/Echo-v0", num_envs=2, vectorization_mode="async")
    vector.reset()
    assert len(set(folder.glob("envgym-text-*")) - before) == 1
    vector.close()
    del vector
    gc.collect()
    assert set(folder.glob("envgym-text-*")) - before == set()
