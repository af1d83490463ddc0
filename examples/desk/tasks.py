"""One task: move a meeting."""

from envgym import Change, Draw, Task, ToolCall, template


@template(level="L0")
def move(draw: Draw) -> Task:
    """Move a meeting to a room that no meeting has."""
    meeting, room = draw.row("SELECT id FROM meetings")["id"], draw.rng.randrange(20, 40)
    wordings = [
        f"Move {meeting} to room {room}.",
        f"{meeting} takes room {room}.",
        f"Room {room} for {meeting}.",
    ]
    return draw.task(
        prompt=draw.wording(wordings),
        oracle=[ToolCall("set_room", {"meeting": meeting, "room": room})],
        changes=[Change.update("meetings", meeting, room=room)],
    )
