"""One request, the tool that serves it, and the correct call, for the tests of the policies."""

from envgym.messages import Message, ToolCall
from envgym.tools import Tool

OPENING = [Message("system", "Be brief."), Message("user", "Set the phone of C17.")]
CALL = ToolCall("update", {"id": "C17", "phone": "555"})
UPDATE = Tool(
    "update",
    "Updates.",
    {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "phone": {"type": "string"},
            "page": {"type": "integer", "minimum": 1},
        },
        "required": ["id", "phone"],
    },
)
