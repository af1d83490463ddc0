"""Imports between rooms, read from the source, and the size of rooms, files and lines."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import envgym.tasksets
import envgym_trainer
from tests.e2e.doors import (
    COLUMNS,
    EXCEPTIONS,
    FILES,
    GYM,
    LINES,
    ROOT,
    TRAINER,
    import_graph,
    python_files,
    room_of,
)

HEAVY = {"torch", "transformers", "peft", "envgym_trainer"}
PUBLIC = {
    "envgym": {*envgym.__all__, *(f"tasksets.{name}" for name in envgym.tasksets.__all__)},
    "envgym_trainer": set(envgym_trainer.__all__),
}
GRAPH = import_graph()


def imports(file: Path) -> set[str]:
    """Return full names of all imports of a file, `from a import b` as `a.b`, no relative ones."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unexpected(found: set[str], kind: str) -> set[str]:
    """Return violations that are not exceptions, and exceptions that no longer occur."""
    return found ^ EXCEPTIONS[kind]


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
def test_the_agent_needs_the_standard_library_and_its_own_files_only(file):
    # A file that is run without the package imports its siblings by their bare names.
    siblings = {other.stem for other in file.parent.glob("*.py")}
    assert packages(file) <= sys.stdlib_module_names | {"__future__"} | siblings


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


FOREIGN = {
    "envs/notes/server.py": {"mcp"},  # an MCP server that does not use envgym
    "envs/selftrain/tasks.py": {"reasoning_gym"},
}
"""Packages that single files of the environments may import."""


def private_names(file: Path) -> set[str]:
    """Return the private names of the packages that a file imports."""
    ours = {name for name in imports(file) if name.split(".")[0] in PUBLIC}
    public = {f"{package}.{name}" for package, names in PUBLIC.items() for name in names}
    return ours - public - set(PUBLIC)


@pytest.mark.parametrize("file", files("envs"), ids=named)
def test_environments_use_public_names_only(file):
    siblings = {path.stem for path in file.parent.rglob("*.py")}
    foreign = FOREIGN.get(named(file), set())
    assert packages(file) <= sys.stdlib_module_names | siblings | {"envgym"} | foreign
    assert private_names(file) == set()


@pytest.mark.parametrize("file", files("examples"), ids=named)
def test_examples_use_public_names_only(file):
    foreign = {"envgym", "envgym_trainer", "gymnasium", "openai", "torch"}
    assert packages(file) <= sys.stdlib_module_names | foreign
    assert private_names(file) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import envgym",
        "import envgym.env, envgym.commands, envgym.playing",
        "import envgym_trainer.config, envgym_trainer.learner.controllers",
        "import envgym_trainer.inference, envgym_trainer.inference.in_process",
        "from envgym_trainer.config import TrainConfig; TrainConfig.model_validate("
        "{'engine': {'vllm': {'url': 'http://localhost'}}})",
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
        "heavy = {'torch', 'gymnasium', 'pydantic', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "envgym train" in done.stdout


# --- order of the rooms


def arrows() -> set[str]:
    """Return `room -> room` for each import between rooms of one package."""
    pairs = {
        (room_of(module), room_of(target)) for module, found in GRAPH.items() for target in found
    }
    return {
        f"{a} -> {b}"
        for a, b in pairs
        if a != b and a.split(".")[0] == b.split(".")[0] and "." in b
    }


@pytest.mark.parametrize("layers", [GYM, TRAINER], ids=["gym", "trainer"])
def test_every_room_is_in_the_table(layers):
    package = layers[0][0].split(".")[0]
    rooms = {room_of(module) for module in GRAPH} - {"envgym", "envgym.__main__", "envgym_trainer"}
    known = {room for layer in layers for room in layer}
    assert {room for room in rooms if room.split(".")[0] == package} <= known


def test_a_room_imports_rooms_below_it_only():
    rank = {
        room: n for layers in (GYM, TRAINER) for n, layer in enumerate(layers) for room in layer
    }
    upwards = {
        arrow
        for arrow in arrows()
        if (ends := arrow.split(" -> "))[0] in rank and rank[ends[1]] <= rank[ends[0]]
    }
    assert unexpected(upwards, "upwards") == set()


def test_no_two_rooms_import_each_other():
    found = arrows()
    both = {arrow for arrow in found if " -> ".join(reversed(arrow.split(" -> "))) in found}
    assert unexpected(both, "rooms that import each other") == set()


def test_no_two_files_import_each_other_not_even_inside_functions():
    both = {f"{a} <-> {b}" for a in GRAPH for b in GRAPH[a] if a < b and a in GRAPH[b]}
    assert unexpected(both, "files that import each other") == set()


# --- sizes


def test_no_folder_of_a_package_has_more_than_25_files():
    folders = {file.parent for file in python_files("envgym", "trainer", "envs")}
    large = {named(folder) for folder in folders if len(list(folder.glob("*.py"))) > FILES}
    assert large == set()


def test_no_file_has_more_than_350_lines():
    large = {
        named(file)
        for file in python_files()
        if len(file.read_text(encoding="utf-8").splitlines()) > LINES
    }
    assert unexpected(large, "long files") == set()


def test_no_line_has_more_than_100_columns():
    wide = {
        named(file)
        for file in python_files()
        if any(len(line) > COLUMNS for line in file.read_text(encoding="utf-8").splitlines())
    }
    assert unexpected(wide, "files with long lines") == set()


def test_nothing_is_excluded_from_formatting():
    skip = re.compile(r"# *fmt: *(skip|off)")
    assert [named(f) for f in python_files() if skip.search(f.read_text(encoding="utf-8"))] == []


def test_no_world_and_no_engine_is_any():
    untyped = {
        f"{named(file)}: {name}"
        for file in python_files("envgym", "trainer", "envs", "benchmarks", "examples")
        for name, hint in annotations(ast.parse(file.read_text(encoding="utf-8")))
        if re.fullmatch(r"_?(\w*_)?(world|engine)", name) and re.search(r"\bAny\b", hint)
    }
    assert unexpected(untyped, "untyped worlds and engines") == set()


def annotations(tree: ast.Module):
    """Yield name and annotation of each parameter and each annotated variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation:
            yield node.arg, ast.unparse(node.annotation)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target).rpartition(".")[2], ast.unparse(node.annotation)
