"""Old keys of the `train:` block are refused with the new ones, which exist."""

import re

import pytest

from envgym.errors import SpecError
from envgym.spec.environment import load_spec
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.old_keys import REMOVED, RENAMED
from tests.trainer.config.schema import leaves


@pytest.mark.parametrize("key", [*RENAMED, *REMOVED])
def test_an_old_key_is_refused_with_the_new_one(key):
    message = f"is now train.{RENAMED[key]}" if key in RENAMED else REMOVED[key]
    with pytest.raises(SpecError, match=re.escape(f"train.{key}: {message}")):
        load_spec("guess", [f"train.{key}=1"])
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig.of(nested(key.split(".")))


@pytest.mark.parametrize("new", sorted({new for new in RENAMED.values() if new[-1].isalpha()}))
def test_the_new_key_exists(new):
    path = new.split(":")[0]
    known = {f"{leaf}." for leaf in leaves(TrainConfig)}
    assert any(f"{leaf}".startswith(f"{path}.") for leaf in known)


def nested(path):
    return {path[0]: nested(path[1:]) if len(path) > 1 else 1}
