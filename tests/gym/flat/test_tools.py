"""Tools: errors for wrong calls, and the text of a tool in a prompt."""

import pytest

from envgym.errors import SpecError
from envgym.tools import Tool, render_compact, to_openai, tools_from, unknown_tool, validate


def tool(required=None, /, **properties) -> Tool:
    required = list(properties) if required is None else required
    return Tool(
        "act", "Does it.", {"type": "object", "properties": properties, "required": required}
    )


STRING, INTEGER, NUMBER, BOOLEAN = (
    {"type": kind} for kind in ("string", "integer", "number", "boolean")
)
UPDATE = {
    "name": "update_contact",
    "description": "Change one field of a contact.\n\nLonger story.",
    "parameters": {
        "type": "object",
        "properties": {
            "contact_id": STRING,
            "field": {"enum": ["phone", "email"]},
            "value": STRING,
        },
        "required": ["contact_id", "field", "value"],
    },
}


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        (NUMBER, "ten", 'x must be a number, got "ten"'),
        (NUMBER, True, "x must be a number, got true"),
        (INTEGER, 5.0, "x must be an integer, got 5.0"),
        (INTEGER, "5", 'x must be an integer, got "5"'),
        (STRING, 5, "x must be a string, got 5"),
        (STRING, None, "x must be a string, got null"),
        (BOOLEAN, 1, "x must be true or false, got 1"),
        ({"enum": ["phone", "email"]}, "fax", 'x must be one of "phone", "email", got "fax"'),
        ({"enum": [1, 2]}, True, "x must be one of 1, 2, got true"),
        ({"const": "yes"}, "no", 'x must be "yes", got "no"'),
        ({"type": ["string", "null"]}, 5, "x must be a string or null, got 5"),
        ({"anyOf": [STRING, {"type": "null"}]}, 5, "x must be a string or null, got 5"),
        ({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}, "b", 'x must be "a" or null, got "b"'),
        ({"type": "array", "items": INTEGER}, [1, "2"], 'x[1] must be an integer, got "2"'),
        ({"type": "array"}, "a,b", 'x must be a list, got "a,b"'),
        (
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            {},
            "missing key 'a' in x (int)",
        ),
        (
            {"type": "object", "properties": {"a": INTEGER}},
            {"a": "1"},
            'x.a must be an integer, got "1"',
        ),
        (
            {"type": "object", "additionalProperties": NUMBER},
            {"q": "1"},
            'x.q must be a number, got "1"',
        ),
        ({"type": "integer", "minimum": 1}, 0, "x must be at least 1, got 0"),
        ({"type": "number", "exclusiveMaximum": 1}, 1, "x must be less than 1, got 1"),
        ({"type": "string", "maxLength": 3}, "long", "x must have at most 3 characters, got 4"),
        ({"type": "array", "minItems": 1}, [], "x must have at least 1 items, got 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted_and_what_came(schema, value, problem):
    assert validate(tool(x=schema), {"x": value}) == [problem]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (NUMBER, 5),
        (NUMBER, 5.5),
        (INTEGER, 5),
        (STRING, ""),
        (BOOLEAN, False),
        ({"type": "array", "items": STRING}, ["a", "b"]),
        ({"type": "object"}, {"any": {"thing": 1}}),
        ({"anyOf": [STRING, {"type": "null"}]}, None),
        ({"enum": ["phone"]}, "phone"),
        ({}, {"what": "ever"}),
    ],
)
def test_a_right_value_passes(schema, value):
    assert validate(tool(x=schema), {"x": value}) == []


def test_an_integer_may_stand_for_a_number_and_is_the_only_coercion():
    assert validate(tool(x=NUMBER), {"x": 3}) == []
    assert validate(tool(x=NUMBER), {"x": "3"}) != []


def test_a_missing_and_a_misspelt_argument_are_both_told():
    problems = validate(tool(amount=NUMBER), {"amout": 3})
    assert problems == [
        "missing argument 'amount' (float)",
        "unknown argument 'amout', did you mean 'amount'?",
    ]


def test_an_unknown_argument_without_a_neighbour_lists_what_there_is():
    assert validate(tool([], amount=NUMBER, id=STRING), {"zzz": 1}) == [
        "unknown argument 'zzz'; takes amount, id"
    ]
    assert validate(tool(), {"zzz": 1}) == ["unknown argument 'zzz'; takes none"]


def test_optional_arguments_may_be_left_out():
    assert validate(tool(["a"], a=STRING, page={"type": "integer", "default": 1}), {"a": "x"}) == []


def test_a_flood_of_mistakes_is_cut():
    problems = validate(tool(), {f"wrong_{i}": i for i in range(100)})
    assert len(problems) == 6
    assert problems[-1] == "and 95 more"


def test_a_long_value_is_cut_in_the_message():
    assert len(validate(tool(x=INTEGER), {"x": "y" * 10_000})[0]) < 120


def test_an_unknown_tool_is_told_its_neighbour_or_all():
    assert (
        unknown_tool("updat_contact", ["update_contact", "close"])
        == "unknown tool 'updat_contact', did you mean 'update_contact'?"
    )
    assert (
        unknown_tool("zzz", ["update_contact", "close"])
        == "unknown tool 'zzz'; tools: update_contact, close"
    )
    assert unknown_tool("zzz", []) == "unknown tool 'zzz'; tools: none"


def test_the_compact_rendering_is_one_line_a_tool():
    page = Tool.from_schema(
        {
            "name": "notes",
            "parameters": {
                "type": "object",
                "properties": {"page": {"type": "integer", "default": 1}},
            },
        }
    )
    assert render_compact([Tool.from_schema(UPDATE), page]).splitlines() == [
        'update_contact(contact_id: str, field: "phone"|"email", value: str)'
        "  # Change one field of a contact.",
        "notes(page: int = 1)",
    ]


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "array", "items": STRING}, "x: list[str] = ..."),
        ({"type": "object", "default": {}}, "x: dict = {}"),
        ({"anyOf": [INTEGER, {"type": "null"}], "default": None}, "x: int = None"),
        ({"type": ["string", "null"]}, "x: str|None = ..."),
        ({"type": "string", "default": 'say "hi"'}, 'x: str = "say \\"hi\\""'),
        ({"type": "boolean", "default": False}, "x: bool = False"),
        ({"$ref": "#/definitions/elsewhere"}, "x: any = ..."),
    ],
)
def test_optional_arguments_show_their_default(schema, written):
    assert (
        render_compact([Tool("f", "", {"type": "object", "properties": {"x": schema}})])
        == f"f({written})"
    )


def test_the_openai_form_survives_a_round_trip():
    original = Tool.from_schema(UPDATE)
    assert Tool.from_schema(to_openai([original])[0]) == original


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(SpecError, match="two tools are named 'update_contact'"):
        tools_from([UPDATE, UPDATE])


@pytest.mark.parametrize(
    "schema", [{"description": "no name"}, {"name": "f", "parameters": {"type": "string"}}]
)
def test_a_schema_that_is_no_tool_is_refused(schema):
    with pytest.raises(SpecError):
        Tool.from_schema(schema)
