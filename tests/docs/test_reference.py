"""The generated reference pages contain every key, command, public name, record field and error."""

import importlib
from dataclasses import fields
from pathlib import Path

import pytest

import envgym
from envgym import errors
from envgym.commands import build_parser
from envgym.dialects import dialect_names, find_dialect
from envgym.episode import Episode
from envgym.spec.environment import json_schema
from envgym.world import ResetInfo, StepInfo
from envgym_trainer.run.metric_table import METRICS

HOOKS = Path(__file__).parents[2] / "docs/hooks"


@pytest.fixture(scope="module")
def hooks():
    """Put the folder of the hooks on `sys.path`, as MkDocs does while it loads them."""
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOOKS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def reference(hooks):
    return hooks("reference")


@pytest.fixture(scope="module")
def yaml_reference(hooks):
    return hooks("yaml_reference")


@pytest.fixture(scope="module")
def sections(yaml_reference):
    return yaml_reference.yaml_page("").split("\n## ")


def test_every_block_of_the_yaml_has_a_section_with_all_of_its_keys(yaml_reference, sections):
    schema = json_schema()
    for path, block in yaml_reference.blocks_of(schema, schema["$defs"]):
        title = f"`{path}`" if path else "Top level"
        own = "".join(text for text in sections if text.startswith(title))
        assert [key for key in block["properties"] if f"| `{key}` |" not in own] == []


def test_every_key_of_the_yaml_has_a_meaning(sections):
    rows = [line for text in sections for line in text.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_key_is_shown_with_its_type_bounds_and_default(sections):
    optimizer = next(text for text in sections if text.startswith("`train.optimizer`"))
    assert "| `max_grad_norm` | number, above 0 | `1.0` | Norm to which" in optimizer


def test_every_command_has_its_help(reference):
    page = reference.cli_page()
    programs = [parser.prog for parser in reference.parsers_of(build_parser())]
    assert {"envgym eval", "envgym train", "envgym sandbox doctor"} <= set(programs)
    assert [program for program in programs if f"## {program}\n" not in page] == []


def test_every_public_name_is_on_the_page_of_the_api(reference):
    page = reference.api_page()
    assert [name for name in envgym.__all__ if f"::: envgym.{name}\n" not in page] == []


def test_every_field_of_an_episode_is_on_the_page_of_the_records(reference):
    page = reference.records_page()
    assert [field.name for field in fields(Episode) if f"| `{field.name}` |" not in page] == []


def test_every_key_of_info_is_on_the_page_of_the_records(reference):
    page = reference.records_page()
    keys = {*ResetInfo.__annotations__, *StepInfo.__annotations__}
    assert [key for key in keys if f"| `{key}` |" not in page] == []


def test_every_metric_has_a_row(reference):
    page = reference.metrics_page()
    assert [metric.name for metric in METRICS if f"| `{metric.name}` |" not in page] == []


def test_every_error_and_exit_code_is_on_the_page_of_the_errors(reference):
    page = reference.errors_page()
    names = [kind.__name__ for _, kind in reference.class_tree(errors.EnvgymError)]
    known = [name for name in names if hasattr(errors, name)]
    assert [name for name in known if f"- `{name}`:" not in page] == []
    assert {kind.exit_code for _, kind in reference.class_tree(errors.EnvgymError)} <= set(
        errors.EXIT_CODES
    )
    assert "| `timeout` | call, open |" in page


def test_every_dialect_has_a_row_with_its_families_and_an_example(hooks):
    page = hooks("dialect_reference").dialects_page("")
    for name in dialect_names():
        assert f"| `{name}`" in page
        assert f"\n## {name}\n" in page
        assert getattr(find_dialect(name), "FAMILIES", "") in page
        assert getattr(find_dialect(name), "FAMILIES", ""), f"{name} has no FAMILIES"
