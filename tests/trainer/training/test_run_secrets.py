"""A run's files hold references and placeholders, never a secret, and the run can be resumed."""

import pytest

from envgym.errors import SpecError
from envgym.secrets import forget
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.trainer.training.test_own_settings import BEGUN, write_shop

SECRET = "sk-literal-7f3a9c1e55"
VALUE = "value-of-the-variable-9"
PART = f"""reward:
  opinion:
    from: judge
    weight: 0
    options: {{url: "http://ann:{SECRET}@127.0.0.1:9/v1", model: m, rubric: "env:RUBRIC_OF_RUN"}}
"""


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setenv("RUBRIC_OF_RUN", VALUE)
    path = write_shop(tmp_path)
    path.write_text(path.read_text().replace("reward:\n", PART))
    return path


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


def test_no_file_of_a_run_has_a_secret_and_the_run_is_resumed(env, tmp_path, capsys):
    started = start(str(env), BEGUN, out=tmp_path / "runs", name="r", resume=None)
    folder = RunFolder.open(tmp_path / "runs" / "r")
    assert started == 0
    files = bytes_of(folder)
    assert any(name.startswith("events.") for name in files)
    for secret in (SECRET, VALUE):
        assert [name for name, data in files.items() if secret.encode() in data] == []
    config = folder.config_file.read_text()
    assert "http://ann:[hidden]@127.0.0.1:9/v1" in config
    assert "rubric: env:RUBRIC_OF_RUN" in config
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "uses $RUBRIC_OF_RUN: reward.opinion.options.rubric" in said.out
    forget()
    more = ["train.steps=2"]
    assert start(str(env), more, out=tmp_path, name=None, resume=folder.path) == 0
    for secret in (SECRET, VALUE):
        assert not any(secret.encode() in data for data in bytes_of(folder).values())
    assert folder.metrics()[-1]["step"] > 0
    env.write_text(env.read_text().replace(f"ann:{SECRET}@", ""))
    with pytest.raises(SpecError, match=r"config.yaml:\d+: reward.opinion.options.url: a run"):
        start(str(env), more, out=tmp_path, name=None, resume=folder.path)
