"""Mutation test of the trap tests. `mutants.py` holds the mutants.

Each mutant replaces one text in a temporary copy of the tree, in which the tests of its trap then
run; at least one must fail. Before the first mutant the trap tests must pass in the unbroken copy.
The exit code is 1 if a mutant survives or its text no longer fits the file. Left out: mutations
that nobody would make by accident, and code outside the traps.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAPS = "tests/traps"
COPIED = ("envgym", "envs", "trainer", "tests", "pyproject.toml")
PASSED = 0
FAILED = 1
"""Exit codes of pytest.

Any other code proves nothing, because no test ran or none could be collected.
"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate fault in the code, and the trap whose tests must find it."""

    trap: int
    what: str
    file: str
    """Path below the root. `T/` stands for the trainer's package."""
    old: str
    """Text that occurs exactly once in the file."""
    new: str

    @property
    def path(self) -> str:
        return self.file.replace("T/", "trainer/envgym_trainer/", 1)

    def broken(self, text: str) -> str:
        """Return the file's text with the mutation.

        Raises:
            ValueError: If `old` does not occur exactly once in `text`.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"trap {self.trap} ({self.what}): "
                f"{self.path} holds {count} times, not once:\n{self.old}"
            )
        return text.replace(self.old, self.new)


def misfits(mutants: Sequence[Mutant], root: Path = ROOT) -> list[str]:
    """Return an error for each mutant whose text does not occur exactly once in the tree."""
    found = []
    for mutant in mutants:
        try:
            mutant.broken((root / mutant.path).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            found.append(str(error))
    return found


def preload() -> None:
    """Import slow third-party modules once for all runs.

    Our own code is left out, because every run must import it from the copy.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = (
        "1"  # the tensors are tiny, and fork is unsafe with threads
    )
    for name in (
        "torch",
        "peft",
        "transformers.models.llama.modeling_llama",
        "hypothesis.strategies",
        "gymnasium",
        "pydantic",
        "rich",
    ):
        importlib.import_module(name)


def run(tree: Path, *, trap: int | None = None) -> tuple[int, str]:
    """Run the tests of one or all traps in the copy. Return pytest's exit code and output."""
    output = tree / "output.txt"
    if (pid := os.fork()) == 0:
        with output.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.chdir(tree)
        os.environ["ENVGYM_TRAP"] = str(trap or "")
        sys.path[:0] = [str(tree), str(tree / "trainer")]
        sys.dont_write_bytecode = (
            True  # a cached .pyc hides a file's second change within one second
        )
        code = int(
            pytest.main(
                ["-x", "-q", "-m", "trap", "-p", "no:cacheprovider", "--timeout=120", TRAPS]
            )
        )
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.read_text(
        encoding="utf-8", errors="replace"
    )


def main(mutants: Sequence[Mutant]) -> int:
    """Run the mutants of the traps that the command line names, or all. Return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traps", nargs="*", type=int, help="numbers of traps; all by default")
    wanted = set(parser.parse_args().traps) or {mutant.trap for mutant in mutants}
    chosen = [mutant for mutant in mutants if mutant.trap in wanted]
    if wrong := misfits(mutants):
        print("\n".join(wrong))
        return 1
    with tempfile.TemporaryDirectory(prefix="envgym-mutants-") as folder:
        tree = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        preload()
        code, said = run(tree, trap=min(wanted) if len(wanted) == 1 else None)
        if code != PASSED:
            print(f"the tests fail in the unbroken tree:\n{said[-3000:]}")
            return 1
        survivors = [mutant for mutant in chosen if not killed(tree, mutant)]
    print(
        f"{len(chosen)} breakages, survivors: "
        f"{', '.join(f'{m.trap} ({m.what})' for m in survivors) or 'none'}"
    )
    return 1 if survivors else 0


def killed(tree: Path, mutant: Mutant) -> bool:
    """Return whether a test of the trap fails with the mutant. The tree is restored afterwards."""
    file = tree / mutant.path
    text = file.read_text(encoding="utf-8")
    started = time.monotonic()
    file.write_text(mutant.broken(text), encoding="utf-8")
    try:
        code, said = run(tree, trap=mutant.trap)
    finally:
        file.write_text(text, encoding="utf-8")
    first = next(
        (line for line in said.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))),
        said[-300:],
    )
    verdict = {FAILED: "killed by", PASSED: "SURVIVED:"}.get(
        code, f"NOT TESTED (pytest exit {code}):"
    )
    test = first.split(" - ")[0].rpartition("::")[2] or first
    print(
        f"{mutant.trap:2} {time.monotonic() - started:5.1f} s  {mutant.what}: {verdict} {test}",
        flush=True,
    )
    return code == FAILED
