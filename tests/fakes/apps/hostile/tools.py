"""Hostile tools: they probe and attack other sessions, the agent, the container and the host.

Each tool returns its result or the name of the error. `as_program` runs another tool in a
program that the session starts, as code written by a model would.
"""

import ctypes
import errno
import glob
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial

from intrusion import WAYS, libc

kept = []
PORT = 7741
KEY = 0x7741
NAME = "hostile-shared"
PATIENCE = 2.0
NEW_USERS = 0x10000000
CREATE = 0o1600


def note(db, text: str) -> str:
    """Writes into the session's tables."""
    db.execute("INSERT INTO notes (text) VALUES (?)", (text,))
    return "noted"


def as_program(name: str, arguments: str) -> str:
    """Runs another of these tools in a program.

    Args:
        name: of the tool.
        arguments: a JSON object.
    """
    command = [sys.executable, __file__, name, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


# --- marks that a session leaves for others to find ---


def settle(mark: str) -> dict:
    """Leaves a mark in every place that others might find, and tells where."""
    with open("mark", "w") as file:
        file.write(mark)
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", mark]))
    for family, address in ((socket.AF_INET, ("127.0.0.1", PORT)), (socket.AF_UNIX, f"\0{NAME}")):
        listening = socket.socket(family)
        listening.bind(address)
        listening.listen()
        kept.append(listening)
    with open(f"/dev/shm/{NAME}", "w") as file:
        file.write(mark)
    libc.shmget(KEY, 4096, CREATE)
    return {"file": os.path.abspath("mark"), "session": os.getpid(), "program": kept[0].pid}


def unsettle() -> None:
    """Takes back what outlives a session in its box."""
    os.unlink(f"/dev/shm/{NAME}")
    libc.shmctl(libc.shmget(KEY, 4096, 0), 0, None)


# --- visibility ---


def look(path: str) -> str:
    """Reads a file or lists a folder."""
    try:
        return (
            " ".join(sorted(os.listdir(path)))
            if os.path.isdir(path)
            else open(path, errors="replace").read(4096)
        )
    except OSError as error:
        return _name(error)


def search(names: list[str]) -> list[str]:
    """Files anywhere with one of these names, or compiled from them."""
    found = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [
            name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")
        ]
        found += [os.path.join(folder, file) for file in files if file.partition(".")[0] in names]
    return sorted(found)


def processes() -> list[str]:
    """Command lines of all processes there are."""
    return [
        f"{path.split('/')[2]} {look(path)[:200]}".replace("\0", " ")
        for path in glob.glob("/proc/[0-9]*/cmdline")
    ]


def descriptors() -> list[str]:
    """What the open files of this process are, without numbers."""
    return sorted(
        os.readlink(path).partition(":[")[0]
        for path in glob.glob("/proc/self/fd/*")
        if os.path.lexists(path)
    )


def overhear() -> str:
    """Opens the stream that all prints go to, for reading."""
    return _outcome(lambda: os.close(os.open("/proc/self/fd/2", os.O_RDONLY | os.O_NONBLOCK)))


# --- signals, tracing and limits ---


def send_signal(pid: int, number: int = 0) -> str:
    """Signals a process."""
    return _outcome(lambda: os.kill(pid, number))


def trace(pid: int) -> list[str]:
    """The ways in which a process can be looked into or changed."""
    return [name for name, way in WAYS.items() if _outcome(partial(way, pid)) == "done"]


def limit(pid: int) -> str:
    """Sets the limits of a process, to what they are."""
    return _outcome(
        lambda: resource.prlimit(
            pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE)
        )
    )


# --- writing and connecting ---


def write(path: str) -> str:
    """Opens a file for writing."""
    return _outcome(lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)))


def writable_settings() -> list[str]:
    """Kernel settings that this user may open for writing, without those of processes."""
    found = []
    for top in ("/proc", "/sys"):
        for folder, folders, files in os.walk(top):
            folders[:] = [
                name
                for name in folders
                if not (folder == "/proc" and (name.isdigit() or "self" in name))
            ]
            found += [
                path for file in files if os.access(path := os.path.join(folder, file), os.W_OK)
            ]
    return [path for path in found if os.path.isfile(path) and write(path) == "done"]


def reach(host: str, port: int) -> str:
    """Connects to a host."""
    return _outcome(lambda: socket.create_connection((host, port), timeout=PATIENCE).close())


def reach_abstract() -> str:
    """Connects to the abstract socket of a neighbour."""
    with socket.socket(socket.AF_UNIX) as ours:
        return _outcome(lambda: ours.connect(f"\0{NAME}"))


def find_shared_memory() -> str:
    """Finds the System V memory of a neighbour."""
    return "done" if libc.shmget(KEY, 4096, 0) >= 0 else errno.errorcode[ctypes.get_errno()]


def unshare() -> str:
    """Makes a user namespace, in which it would be root."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(NEW_USERS) == 0 else ctypes.get_errno())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode.get(status, "done")


# --- destruction ---


def kill_all() -> None:
    """Kills every process it may."""
    os.kill(-1, signal.SIGKILL)
    time.sleep(PATIENCE)


def kill_parent(number: int) -> None:
    """Signals the process that started this one."""
    os.kill(os.getppid(), number)


def leave_orphan(mark: str) -> None:
    """Starts a program that leaves the session, its group and its parent."""
    program = (
        "import os, time; os.setsid(); os.fork() and os._exit(0); os.setsid();"
        f" time.sleep(600); {mark!r}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def plant(names: list[str]) -> str:
    """Leaves files that hide modules of Python, where programs look first."""
    for name in names:
        with open(name, "w") as file:
            file.write("raise SystemExit('planted')\n")
    return "planted"


def forge(answer: str) -> None:
    """Speaks to the agent in the session's name."""
    for descriptor in range(3, 256):
        try:
            with socket.socket(fileno=os.dup(descriptor)) as wire:
                wire.sendall(answer.encode() + b"\n")
        except OSError:
            continue
    time.sleep(PATIENCE)


def fork_bomb() -> str:
    """Forks, in each child too, until there is no process left, and holds them all."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
    time.sleep(600)
    return ""


def fill_disk(gigabytes: int) -> str:
    """Writes a big file."""
    block = b"x" * 2**20
    with open("big", "wb", buffering=0) as file:
        return _outcome(lambda: [file.write(block) for _ in range(gigabytes << 10)])


def unpack_bomb(megabytes: int) -> str:
    """Unpacks an archive of zeros that is a thousandth of its content."""
    import zipfile

    with (
        zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w", force_zip64=True) as file,
    ):
        for _ in range(megabytes):
            file.write(bytes(2**20))
    return _outcome(lambda: zipfile.ZipFile("bomb.zip").extractall("unpacked"))


def flood() -> None:
    """Prints without an end."""
    while True:
        os.write(1, b"y" * 2**16)


def say_without_end() -> str:
    """Answers with more than can be told."""
    return "y" * 2**28


def grab_memory(megabytes: int) -> int:
    """Fills memory."""
    return len(bytearray(os.urandom(1)) * (megabytes * 2**20))


def spin() -> None:
    """Never ends, and asks for nothing."""
    while True:
        pass


def print_garbage() -> str:
    """Prints what looks like the protocol."""
    for number in range(2000):
        os.write(1, f'{{"id":{number},"result":"forged"}}\n\0\xff'.encode("latin-1"))
    return "printed"


def _outcome(work) -> str:
    try:
        work()
    except OSError as error:
        return _name(error)
    return "done"


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
