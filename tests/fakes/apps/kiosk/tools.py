"""Tools of a tiny kiosk. Some of them hang, crash, leak or break the protocol."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Literal

from names import NAMES


class ToolError(Exception):
    """Refusal; a tool recognizes it by its name."""


class ClosedError(ToolError):
    """Refusal of this kiosk."""


def get_item(db, item_id: str) -> dict:
    """One item of the kiosk.

    Args:
        item_id: Id such as I3.
    """
    row = db.execute("SELECT id, name, stock FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        raise LookupError(f"no item '{item_id}'")
    return row


def set_stock(db, now: str, item_id: str, stock: int = 0) -> str:
    """Sets the stock of an item.

    The change is written to the log.

    Args:
        item_id: Id such as I3.
        stock: Pieces; never below 0,
            whatever you hear.
    """
    with db:
        db.execute("UPDATE items SET stock = ? WHERE id = ?", (stock, item_id))
        db.execute("INSERT INTO log VALUES (?, ?)", (now, f"stock of {item_id}"))
    if stock < 0:
        raise ValueError("stock cannot be negative")
    if stock > 1_000_000:
        raise ZeroDivisionError("too much to count")
    return f"{item_id}: {stock}"


def echo(text: str, times: int = 1) -> str:
    """Gives back a text.

    Args:
        text: Any text.
        times: How often.
    """
    return text * times


def names() -> list[str]:
    """The names that goods have here."""
    return list(NAMES)


def dice(kind: Literal["d6", "d20"]) -> int:
    """Throws a die."""
    return random.randint(1, int(kind[1:]))


def own_error() -> str:
    """Refuses with a class of its own."""
    raise ClosedError("closed on Mondays")


def ask_wrong_key() -> str:
    """Looks up a key that is not there."""
    return {}["no such customer"]


def hang(seconds: float) -> None:
    """Sleeps."""
    time.sleep(seconds)


def hang_deaf(seconds: float) -> None:
    """Sleeps through every interrupt."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            time.sleep(0.05)
        except BaseException:
            continue


def hang_with_child() -> None:
    """Starts a program and waits for it."""
    subprocess.run(["sleep", "60"], check=True)


def say_much(megabytes: int) -> str:
    """Gives a long text."""
    return "é" * (megabytes * 2**20)


def print_everywhere() -> str:
    """Prints to every place there is."""
    print('{"id": 1, "result": "forged"}')
    sys.stdout.write("no end of line")
    os.write(1, b'\n{"id": 2}\n')
    subprocess.run(["echo", "a program speaks"], check=True)
    print("to stderr", file=sys.stderr)
    return "printed"


def read_stdin() -> str:
    """What stdin holds."""
    return repr(sys.stdin.read())


def end_process(code: int) -> None:
    """Ends the process it runs in."""
    os._exit(code)


def end_politely() -> None:
    """Raises SystemExit."""
    sys.exit(3)


def kill_parent() -> None:
    """Kills the process that started this one."""
    os.kill(os.getppid(), signal.SIGKILL)


def commit_by_hand(db) -> None:
    """Ends the transaction of the call."""
    db.execute("COMMIT")


def process_id() -> int:
    """The id of the process that runs tools."""
    return os.getpid()


def process_identity() -> str:
    """The id of the process that runs tools, and on Linux the namespace in which that id counts."""
    return f"{os.getpid()} {os.readlink('/proc/self/ns/pid') if sys.platform == 'linux' else ''}"


def environment() -> dict:
    """The environment variables."""
    return dict(os.environ)


def status() -> str:
    """What the kernel says about this process."""
    with open("/proc/self/status") as file:
        return file.read()


def write_file(path: str) -> str:
    """Writes a file."""
    try:
        with open(path, "w") as file:
            file.write("x")
    except OSError as error:
        raise ValueError(error.strerror) from None
    return "written"


def leave_files() -> list[str]:
    """Writes files where programs do, and lists the folder."""
    with open("left_here", "w"), open(os.path.expanduser("~/left_at_home"), "w"):
        tempfile.mkstemp(prefix="left_as_temporary")
    return sorted(os.listdir("."))


def connect(host: str) -> str:
    """Connects to a host."""
    try:
        socket.create_connection((host, 80), timeout=2).close()
    except OSError as error:
        raise ValueError(error.strerror) from None
    return "connected"


def grab_memory(megabytes: int) -> int:
    """Fills memory."""
    return len(bytearray(os.urandom(1)) * (megabytes * 2**20))


_kept = []


def keep_memory(megabytes: int) -> int:
    """Fills memory and keeps it."""
    _kept.append(bytearray(os.urandom(1)) * (megabytes * 2**20))
    return len(_kept)


def start_daemon() -> int:
    """Starts a program that leaves its group and is nobody's child any more; returns its id."""
    quiet = "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
    program = f"import subprocess; print(subprocess.Popen(['sleep', '600'], {quiet}).pid)"
    return int(
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
    )


def _helper() -> str:
    """Private, so not a tool."""
    return ""


def undocumented() -> str:
    return ""
