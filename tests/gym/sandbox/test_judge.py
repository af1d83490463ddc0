"""State is read by a process of ours: code in the session can neither forge nor hide a change.

Each attack runs with every backend whose sessions have their own processes.
"""

import json
import sys
import time
from pathlib import Path

import pytest

from envgym.errors import WorldFailure
from envgym.sandbox import App
from envgym.sandbox.agent.fork.judge import TABLE
from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import BUBBLEWRAP, DOCKER, LOCAL, call, in_campaign, options

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: attacks use /proc")
CODER = App(
    Path(__file__).parents[2] / "fakes" / "apps",
    ("coder/tools.py",),
    "coder/schema.sql",
    "coder/world.py:fill",
    "coder/world.py:lay_out",
)
KINDS = in_campaign([LOCAL[1], BUBBLEWRAP[2], DOCKER[2]])
PAID = {"items": {"added": [{"id": 1, "price": 777}], "removed": [{"id": 1, "price": 10}]}}
"""Changes that the imagined task expects."""
READ_RATES = "print(open('rates.txt').read(), end='')"


@pytest.fixture(scope="module", params=KINDS)
def coder(request):
    is_single = request.param[1] == "container"
    pool = {"boxes": 4, "ready": 1} if is_single else {"boxes": 4, "sessions": 4}
    sandbox = open_sandbox(CODER, options(request.param, pool=pool, tmpfs_mb=16))
    yield sandbox
    sandbox.close()


@pytest.fixture
def session(coder):
    session = coder.open(seed=7, timeout_seconds=60)
    yield session
    session.close()


def run(session, code: str, timeout_seconds: float = 20) -> str:
    """Run code in the session's process. How the call ends does not matter here."""
    try:
        return call(session, "python", timeout_seconds, code=code).text
    except WorldFailure as failure:
        return failure.kind


def shell(session, command: str) -> str:
    return call(session, "shell", command=command).text


def finish(session) -> dict:
    return session.finish(timeout_seconds=20)


def changed_files(changes: dict) -> list[str]:
    files = changes.get("files", {"added": [], "removed": []})
    return sorted({row["path"] for row in files["added"] + files["removed"]})


# --- an honest change is seen ---


def test_an_honest_change_is_seen_in_the_middle_and_at_the_end(session):
    assert session.diff(timeout_seconds=20) == {}
    run(session, "db.execute('UPDATE items SET price = 777 WHERE id = 1')")
    assert session.diff(timeout_seconds=20) == PAID
    shell(session, "echo 'print(1)' > program.py")
    changes = finish(session)
    assert changes["items"] == PAID["items"]
    assert changed_files(changes) == ["program.py"]


def test_a_database_that_grows_and_shrinks_is_read_as_it_is(session):
    run(
        session,
        "db.execute('CREATE TABLE more (x)')\n"
        "db.executemany('INSERT INTO more VALUES (?)', [('x' * 100,)] * 9000)",
    )
    assert len(session.diff(timeout_seconds=20)["more"]["added"]) == 9000
    run(session, "db.execute('DROP TABLE more')")
    assert session.diff(timeout_seconds=20) == {}
    run(session, "db.execute('DELETE FROM items WHERE id = 2')")
    assert finish(session) == {"items": {"added": [], "removed": [{"id": 2, "price": 20}]}}


def test_a_refused_call_leaves_no_change(session):
    run(session, "db.execute('UPDATE items SET price = 1')\nraise ValueError('no')")
    assert finish(session) == {}


def test_a_finished_session_takes_no_call(session):
    finish(session)
    with pytest.raises(WorldFailure, match="has no session"):
        call(session, "shell", command="true")


# --- code that forges what its own process says ---

FORGED = "{'items': {'added': [{'id': 1, 'price': 777}], 'removed': [{'id': 1, 'price': 10}]}}"
FORGERIES = {
    "method of the frame's object": f"""
import sys
frame = sys._getframe()
while frame:
    for thing in list(frame.f_locals.values()):
        for name in ("diff", "finish"):
            if hasattr(type(thing), name):
                setattr(type(thing), name, lambda self, **options: {FORGED})
    frame = frame.f_back
""",
    "functions of all modules": f"""
import sys
for module in list(sys.modules.values()):
    for name in ("diff_tables", "table_changes", "read_tree", "read_files", "diff_trees"):
        if hasattr(module, name):
            setattr(module, name, lambda *words, **more: {FORGED})
""",
    "answers found by the garbage collector": f"""
import gc, types
for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType) and thing.__name__ in ("answer", "encode", "diff"):
        thing.__code__ = (lambda *words: {FORGED}).__code__
""",
    "code of a function by ctypes": """
import ctypes, sys
for module in list(sys.modules.values()):
    function = getattr(module, "diff_tables", None)
    if function is not None:
        forged = lambda db, image: {}
        ctypes.memmove(id(function) + 16, id(forged) + 16, 8 * 4)
""",
    "the connection's class": """
import sqlite3
db.row_factory = lambda *words: (1, 777)
db.text_factory = lambda data: "777"
db.create_function("abs", 1, lambda value: 777)
db.create_collation("BINARY", lambda a, b: 0)
""",
    "a temporary table of the same name": """
db.execute("CREATE TEMP TABLE items (id INTEGER PRIMARY KEY, price INTEGER)")
db.execute("INSERT INTO items VALUES (1, 777), (2, 20)")
""",
    "an attached database of the same name": """
db.execute("ATTACH ':memory:' AS other")
db.execute("CREATE TABLE other.items (id INTEGER PRIMARY KEY, price INTEGER)")
db.execute("INSERT INTO other.items VALUES (1, 777), (2, 20)")
""",
    "the folder's class": """
import pathlib
type(folder).read_bytes = lambda self: b"7"
""",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_code_that_changes_the_sessions_process_changes_no_verdict(session, forgery):
    run(session, FORGERIES[forgery])
    assert session.diff(timeout_seconds=20).get("items") is None
    assert finish(session).get("items") is None


ANSWERS = {
    "an answer to a later request": '{"id":%d,"result":{"text":"x","ok":true,"seconds":0}}\\n',
    "changes": '{"id":%d,"result":{"items":{"added":[],"removed":[]}}}\\n',
    "a failure of the box": '{"id":%d,"error":{"kind":"sandbox_lost","message":"x"}}\\n',
    "a mistake of the app": '{"id":%d,"error":{"kind":"app_error","message":"x"}}\\n',
    "a result without text": '{"id":%d,"result":5}\\n',
    "a time that is no number": '{"id":%d,"result":{"text":"x","ok":true,"seconds":1e999}}\\n',
    "two lines in one": '{"id":%d,\\n"result":{"text":"x","ok":true,"seconds":0}}\\n',
    "deep nesting": "[" * 200000 + "\\n",
    "no end": "x" * 3000000,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_the_code_writes_itself_harms_only_its_session(coder, session, answer):
    neighbour = coder.open(seed=7, timeout_seconds=60)
    forge = f"""
import gc, os, socket, stat
request = max((t["id"] for t in gc.get_objects()
               if type(t) is dict and t.get("op") == "call" and "id" in t), default=0)
for number in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            text = '''{ANSWERS[answer]}'''
            os.write(number, (text % request if "%d" in text else text).encode())
    except OSError:
        pass
"""
    assert run(session, forge) not in ("sandbox_lost", "app_error")
    run(session, "say('next')")
    assert finish(session) == {}
    assert shell(neighbour, "cat rates.txt") == "7\n"
    run(neighbour, "db.execute('UPDATE items SET price = 777 WHERE id = 1')")
    assert finish(neighbour) == PAID
    neighbour.close()


# --- a database that cannot be compared ---

RUINS = {
    "no database": "os.pwrite(fd, b'garbage' * 900, 0)",
    "an empty file": "os.ftruncate(fd, 0)",
    "half a file": "os.ftruncate(fd, 4096)",
    "pages without sense": "os.pwrite(fd, b'\\xaa' * 4096, 4096)",
    "more pages than the file has": "os.pwrite(fd, b'\\x00\\x0f\\xff\\xff', 28)",
    "a write-ahead log": "os.pwrite(fd, b'\\x02\\x02', 18)",
    "a huge file": "os.pwrite(fd, b'\\x7f\\xff\\xff\\xff', 28); os.ftruncate(fd, 1 << 38)",
}
FIND_FILE = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        if os.readlink(f"/proc/self/fd/{name}").endswith("state.db (deleted)"):
            fd = int(name)
    except OSError:
        pass
"""


@pytest.mark.parametrize("ruin", RUINS)
def test_a_ruined_database_is_a_change_that_no_task_expects(session, ruin):
    run(session, FIND_FILE + RUINS[ruin])
    changes = finish(session)
    assert TABLE in changes or "unreadable" in json.dumps(changes["items"]["added"])


def test_a_hidden_log_of_writes_hides_nothing(session):
    run(session, "db.execute('PRAGMA journal_mode = WAL')")
    run(session, "db.execute('PRAGMA locking_mode = NORMAL')")
    run(session, "db.execute('UPDATE items SET price = 5 WHERE id = 2')")
    said = run(session, "say([tuple(row) for row in db.execute('SELECT * FROM items')])")
    changes = finish(session)
    assert TABLE in changes or ("(2, 5)" in said) == ("items" in changes)


def test_a_comparison_that_never_ends_is_stopped_and_harms_no_other(coder, session):
    neighbour = coder.open(seed=7, timeout_seconds=60)
    run(
        session,
        "columns = ', '.join(f'c{n} AS (zeroblob(99000000))' for n in range(300))\n"
        "db.execute(f'CREATE TABLE slow (a, {columns})')\n"
        "db.executemany('INSERT INTO slow (a) VALUES (?)', [(n,) for n in range(999)])",
    )
    started = time.monotonic()
    changes = session.finish(timeout_seconds=3)
    assert list(changes) == [TABLE]
    assert time.monotonic() - started < 13, "the box did not answer in its time limit"
    run(neighbour, "db.execute('UPDATE items SET price = 777 WHERE id = 1')")
    assert finish(neighbour) == PAID
    neighbour.close()


# --- files that are replaced ---

REPLACED = {
    "by a link": "mv ../work ../gone && ln -s /etc ../work",
    "by a pipe": "mv ../work ../gone && mkfifo ../work",
    "by a file": "mv ../work ../gone && echo x > ../work",
    "by nothing": "rm -rf ../work",
}


@pytest.mark.parametrize("how", REPLACED)
def test_a_work_folder_that_is_replaced_has_lost_its_files(session, how):
    shell(session, REPLACED[how])
    assert changed_files(finish(session)) == ["program.py", "rates.txt"]


def test_a_private_folder_that_is_moved_is_still_the_sessions(coder, session):
    shell(session, "echo 9 > rates.txt; cd ../..; mv $HOME $HOME-moved; mkdir -p $HOME/work")
    assert changed_files(finish(session)) == ["rates.txt"]


def test_files_without_rights_and_special_files_are_compared(session):
    shell(session, "chmod 000 rates.txt; mkfifo pipe; ln -s /etc/passwd link; chmod 000 .")
    changes = finish(session)
    assert changed_files(changes) == ["link", "pipe", "rates.txt"]
    assert "root" not in json.dumps(changes)


# --- one look, when nothing lives any more ---

WATCH = """
import ctypes, os
libc = ctypes.CDLL(None)
watch = libc.inotify_init()
libc.inotify_add_watch(watch, b"rates.txt", 0x10 | 0x20 | 0x1)  # closed, opened, read
while True:
    os.read(watch, 4096)
    open("rates.txt", "w").close()
"""
REWRITE = "while true; do echo 7 > rates.txt; echo 9 > rates.txt; done"
LATE = "sleep 0.7; echo 9 > rates.txt; sleep 60"


@pytest.mark.parametrize("start", ["setsid", "nohup", "setsid setsid"])
@pytest.mark.parametrize("background", [REWRITE, LATE, f"exec python -c '{WATCH}'"])
def test_the_diff_and_the_hidden_test_see_the_same_files(session, background, start):
    quoted = background.replace("'", "'\"'\"'")
    shell(session, f"{start} sh -c '{quoted}' >/dev/null 2>&1 & sleep 0.3")
    changes = session.finish(timeout_seconds=20, keep_files=True)
    time.sleep(0.8)
    told = session.verify({"t.py": READ_RATES}, ("python", "-I", "t.py"), timeout_seconds=20)
    assert told.exit_code == 0
    assert ("rates.txt" in changed_files(changes)) == (told.output != "7\n")


def test_a_thread_that_goes_on_writing_cannot_split_the_look(session):
    run(
        session,
        "import threading, time\n"
        "def go_on():\n"
        "    while True:\n"
        "        (folder / 'rates.txt').write_text('9')\n"
        "        (folder / 'rates.txt').write_text('7\\n')\n"
        "threading.Thread(target=go_on, daemon=True).start()",
    )
    changes = session.finish(timeout_seconds=20, keep_files=True)
    told = session.verify({"t.py": READ_RATES}, ("python", "-I", "t.py"), timeout_seconds=20)
    assert ("rates.txt" in changed_files(changes)) == (told.output != "7\n")


def test_a_session_whose_process_was_killed_is_judged_by_the_state_it_left(session):
    run(session, "db.execute('UPDATE items SET price = 777 WHERE id = 1')")
    run(session, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    if run(session, "say('lives')") != "lives":  # process 1 of a namespace cannot kill itself
        assert session.diff(timeout_seconds=20) == PAID
    assert finish(session) == PAID


def test_no_program_finds_the_database(session):
    found = shell(session, "find $HOME /tmp -name 'state.db*' 2>/dev/null; ls -a ..")
    assert "work" in found
    assert "state.db" not in found
