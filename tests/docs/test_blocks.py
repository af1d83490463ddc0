"""Run every code block of README, CONTRIBUTING and docs.

`python` blocks run, `bash` blocks run line by line with small settings, `yaml` blocks are
validated. A block with `title="PATH"` is written to that file first. A block with `skip="reason"`
is not run. Lines `envgym ...` run in this process, which has torch already; other lines run as
programs. A command that two pages show with the same files runs once.
"""

import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from envgym import EnvSpec
from envgym.commands import main
from envgym_trainer.config import TrainConfig
from tests.fakes.taught_model import served

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"^```(?P<kind>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
CONTINUES = {
    "docs/guides/dialects.md": "docs/guides/environment.md",
    "docs/guides/tools.md": "docs/guides/environment.md",
    "docs/guides/openapi.md": "docs/guides/environment.md",
    "docs/guides/rewards.md": "docs/guides/environment.md",
}
"""Pages that use the files of another page."""
SMALL = [
    "train.model=tiny",
    "train.warm_start.episodes=4",
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.rollout.group_size=2",
    "train.rollout.max_turn_tokens=8",
    "train.rollout.max_context_tokens=2048",
    "train.evaluation.tasks=2",
    "train.evaluation.validation_tasks=2",
    "train.checks.preflight=off",
]
EXTRA = {
    "check": ["--tasks", "20"],
    "eval": ["--tasks", "20"],
    "train": SMALL,
    "study": [*SMALL, "--seeds", "1"],
    "bench": [*SMALL, "--steps", "1"],
    "preflight": ["--fast", "train.model=tiny"],
}
"""Arguments that make a command of the pages finish within seconds."""
MOST_SKIPS = 16
"""Blocks that cannot run here. Lower this number when you remove one."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    info: str
    text: str

    @property
    def title(self) -> str:
        return found[1] if (found := re.search(r'title="([^"]+)"', self.info)) else ""

    @property
    def skip(self) -> str:
        return found[1] if (found := re.search(r'skip="([^"]+)"', self.info)) else ""


def read_blocks(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, source.count("\n", 0, found.start()) + 1, *found.group("kind", "info", "text"))
        for found in FENCE.finditer(source)
    ]


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def runnable(kind: str) -> list:
    return [
        pytest.param(block, id=f"{block.page}:{block.line}")
        for block in BLOCKS
        if block.kind == kind and not block.skip and not block.title
    ]


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page and its predecessor define."""
    pages = (page, CONTINUES.get(page))
    return {block.title: block.text for block in BLOCKS if block.title and block.page in pages}


def used_files(page: str, command: str) -> tuple[tuple[str, str], ...]:
    """Return the files of a page whose first folder or name occurs in a command."""
    files = sorted(files_of(page).items())
    return tuple((title, text) for title, text in files if re.split("[/.]", title)[0] in command)


def commands() -> list:
    found = {}
    for parameter in runnable("bash"):
        block = parameter.values[0]
        lines = block.text.replace("\\\n", " ").splitlines()
        for line in lines:
            command = line.split("  #")[0].strip()
            if command and not command.startswith("#"):
                key = (command, used_files(block.page, command))
                found.setdefault(key, (block.page, command))
    return [pytest.param(*each, id=":".join(each)) for each in found.values()]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return a function: page -> folder with the shipped environments and the page's files."""
    folders = {}

    def folder(page: str) -> Path:
        if page not in folders:
            folders[page] = tmp_path_factory.mktemp("page")
            for name in ("envs", "benchmarks", "examples"):
                (folders[page] / name).symlink_to(ROOT / name)
            for title, text in files_of(page).items():
                path = folders[page] / title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        return folders[page]

    return folder


def run(words: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", runnable("python"))
def test_a_python_block_runs(block, folder_of):
    run([sys.executable, "-c", block.text], folder_of(block.page))


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_runs(page, command, folder_of, tmp_path, monkeypatch):
    words = shlex.split(command)
    if SERVER in command:
        with served_run(folder_of(page)) as url:
            run(shlex.split(command.replace(SERVER, url)), folder_of(page))
        return
    if words[:2] == ["envgym", "serve"]:
        serve_until_terminated(words[2:], folder_of(page))
        return
    if words[0] != "envgym":
        run(words, folder_of(page))
        return
    if "--tasks" not in words:
        words += EXTRA.get(words[1], [])
    if words[1] in ("train", "study"):
        words += ["--out", str(tmp_path)]
    monkeypatch.chdir(folder_of(page))
    for word in words:
        if word.startswith("adapter:"):
            run_is_there(Path(word.removeprefix("adapter:")).parent)
    assert main(words[1:]) == 0


SERVER = "http://127.0.0.1:8000"
"""Address of the server that commands of the pages talk to. The tests use another port."""


@contextmanager
def served_run(folder: Path):
    """Serve `runs/guess` of a folder; yield the URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_is_there(Path("runs/guess"))
        with served("runs/guess") as (_, url):
            yield url


def serve_until_terminated(words: list[str], folder: Path) -> None:
    """Run `envgym serve` until it answers, and end it as an operator does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if words[0].startswith("runs/"):
            run_is_there(Path(words[0]))
        with served(*words) as (process, _):
            process.terminate()
            assert process.wait(timeout=60) == 0


def run_is_there(run: Path) -> None:
    """Train a small run of the environment `envs/NAME.yaml` at `runs/NAME` if there is none."""
    if not run.exists():
        words = ["train", f"envs/{run.name}.yaml", *SMALL, "--out", str(run.parent)]
        assert main(words) == 0


@pytest.mark.parametrize("block", runnable("yaml"))
def test_a_yaml_block_is_valid(block, folder_of):
    data = yaml.safe_load(block.text)
    train = TrainConfig.with_absolute_paths(data.pop("train", {}), folder_of(block.page))
    TrainConfig.model_validate(train).checked()
    base = {"id": "acme/page-v0", "tools": [], "tasks": {"from": "tasks.py"}}
    EnvSpec.model_validate(base | data)


def test_blocks_that_do_not_run_are_few_and_have_a_reason():
    skipped = [block for block in BLOCKS if "skip" in block.info]
    assert all(block.skip for block in skipped)
    assert len(skipped) <= MOST_SKIPS


def test_every_page_of_the_docs_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[2:]]
    assert [page for page in pages if f" {page}\n" not in navigation] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
