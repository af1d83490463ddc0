"""The public names of the gym: these lists, and nothing else."""

import inspect
import subprocess
import sys

import pytest

import envgym.tasksets

NAMES = [
    "ANY",
    "NOTHING",
    "SPLITS",
    "App",
    "Block",
    "Change",
    "Check",
    "CheckResult",
    "Completion",
    "Dialogue",
    "Draw",
    "Env",
    "EnvSpec",
    "EnvgymError",
    "Episode",
    "Evidence",
    "Failure",
    "Message",
    "OpenAIPolicy",
    "OraclePolicy",
    "Outcome",
    "Policy",
    "PrerequisiteError",
    "RandomPolicy",
    "Request",
    "ResetInfo",
    "Rubric",
    "Sandbox",
    "Score",
    "ScriptedPolicy",
    "Session",
    "SpecError",
    "Split",
    "StepInfo",
    "Task",
    "TaskSet",
    "Template",
    "Term",
    "TokenTrace",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolError",
    "ToolResult",
    "TooManyFailures",
    "UsageError",
    "World",
    "WorldFailure",
    "check",
    "evaluate",
    "load_spec",
    "make",
    "make_world",
    "open_policy",
    "open_sandbox",
    "play",
    "play_many",
    "register",
    "reward_part",
    "stable_seed",
    "template",
]
TASKSETS = [
    "Example",
    "irrelevant_rows",
    "label_template",
    "load_rows",
    "question_template",
    "row_template",
    "rows_from",
]
CONSTANTS = {"ANY", "NOTHING", "SPLITS", "Split"}
"""Names without a docstring at run time."""


def test_these_are_all_public_names():
    assert sorted(envgym.__all__) == sorted(NAMES)
    assert sorted(name for name in dir(envgym) if not name.startswith("_")) == sorted(NAMES)


def test_these_are_all_public_names_for_tasks_from_data():
    assert sorted(envgym.tasksets.__all__) == sorted(TASKSETS)
    assert sorted(dir(envgym.tasksets)) == sorted(TASKSETS)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_object_and_not_a_module(name):
    # Importing a submodule of the same name would replace the object.
    for _ in range(2):
        assert not inspect.ismodule(getattr(envgym, name))


@pytest.mark.parametrize("name", sorted({*NAMES, *TASKSETS} - CONSTANTS))
def test_a_public_name_has_a_docstring_of_its_own(name):
    documented = getattr(envgym if name in NAMES else envgym.tasksets, name)
    text = inspect.getdoc(documented) or ""
    assert text.partition("\n\n")[0].endswith((".", ":"))
    assert not text.startswith(f"{name}(")  # what dataclasses generate
    if inspect.isfunction(documented):
        check_sections(documented, text)


def check_sections(function, text: str) -> None:
    """Require that the docstring describes each parameter and the result."""
    signature = inspect.signature(function)
    assert not signature.parameters or "\nArgs:\n" in text
    for parameter in signature.parameters:
        assert f"\n    {parameter}: " in text
    has_result = signature.return_annotation not in (None, "None")
    first = text.partition(" ")[0]
    assert not has_result or first in ("Return", "Build") or "\nReturns:\n" in text


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'envgym' has no attribute 'plya'"):
        _ = envgym.plya


def test_public_names_are_imported_on_first_use():
    code = "import envgym, sys; print({'pydantic', 'gymnasium', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
