"""The arrows between rooms that must not appear; read from the source, so that no import order can hide one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "peft", "envgym_trainer"}
PUBLIC = set(__import__("envgym").__all__)


def imports(file: Path) -> set[str]:
    """Full names of everything a file imports, `from a import b` as `a.b`; relative ones are left out."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", files("envgym"), ids=named)
def test_the_gym_knows_neither_torch_nor_the_trainer(file):
    assert not packages(file) & HEAVY


@pytest.mark.parametrize("file", files("envgym/sandbox/agent"), ids=named)
def test_the_agent_needs_the_standard_library_only(file):
    assert packages(file) <= sys.stdlib_module_names | {"__future__"}


PURE = [
    *files("trainer/envgym_trainer/algorithms/advantages"),
    *files("trainer/envgym_trainer/algorithms/losses"),
    ROOT / "trainer/envgym_trainer/learner/logprobs.py",
]
ALGORITHMS = ("envgym_trainer.algorithms", "envgym_trainer.config.options")


@pytest.mark.parametrize("file", PURE, ids=named)
def test_the_mathematics_imports_torch_only(file):
    outside = packages(file) - sys.stdlib_module_names - {"torch"}
    foreign = {name for name in imports(file) if name.split(".")[0] in outside}
    assert all(name.startswith(ALGORITHMS) for name in foreign)


@pytest.mark.parametrize("file", files("envs"), ids=named)
def test_environments_use_public_names_only(file):
    siblings = {path.stem for path in file.parent.rglob("*.py")}
    # A server of its own, which knows nothing of envgym; puzzles that another library makes.
    foreign = (
        {"mcp"}
        if file.name == "server.py"
        else {"reasoning_gym"}
        if file.parent.name == "selftrain"
        else set()
    )
    assert packages(file) <= sys.stdlib_module_names | siblings | {"envgym"} | foreign
    assert {
        name.removeprefix("envgym.") for name in imports(file) if name.startswith("envgym")
    } <= PUBLIC


@pytest.mark.parametrize(
    "code",
    [
        "import envgym",
        "import envgym.env, envgym.commands, envgym.play",
        "import envgym_trainer.config, envgym_trainer.learner.controllers",
        "import envgym_trainer.inference, envgym_trainer.inference.in_process",
        "from envgym_trainer.config import TrainConfig; TrainConfig.model_validate("
        "{'engine': {'name': 'vllm_server', 'url': 'http://localhost'}})",
    ],
)
def test_importing_loads_nothing_heavy(code):
    check = (
        f"{code}; import sys; print(sorted({{'torch', 'transformers', 'peft'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_neither_gymnasium_nor_torch_nor_pydantic():
    check = (
        "import sys; from envgym.commands import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'gymnasium', 'pydantic', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "envgym train" in done.stdout
