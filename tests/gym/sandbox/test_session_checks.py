"""Hidden tests of a session's files, and errors in the app."""

import pytest

from envgym.errors import SpecError, WorldFailure
from envgym.sandbox import App
from envgym.sandbox.backends import open_sandbox
from envgym.tool_sandbox import read_primary_keys
from tests.fakes.kiosk_app import DOCKER, LOCAL, NONE, call, options
from tests.fakes.shop_env import YAML, shop
from tests.gym.sandbox.session_files import FOLDER, PASS, sh

FAIL = "print('not done'); raise SystemExit(3)"


# --- a session's folder, in every sandbox ---


@pytest.fixture(scope="module", params=NONE + LOCAL + DOCKER)
def sandbox(request):
    with_boxes = open_sandbox(FOLDER, options(request.param))
    yield with_boxes
    with_boxes.close()


# --- hidden tests ---


def verify(
    session, text: str = PASS, *, seconds: float = 20, command=("python", "-I", "tests/t.py")
):
    return session.verify({"tests/t.py": text}, command, timeout_seconds=seconds)


def test_a_check_sees_the_final_files_and_its_exit_code_decides(session):
    sh(session, "echo 42 > answer.txt")
    found = verify(
        session,
        "import os; print(open('answer.txt').read(), sorted(os.listdir())); raise SystemExit(3)",
    )
    assert (found.exit_code, found.passed) == (3, False)
    assert found.output == "42\n ['answer.txt', 'empty.txt', 'notes', 'to_a']\n"


def test_a_check_passes_with_exit_code_zero(session):
    assert verify(session).passed


def test_the_models_own_test_file_does_not_count(session):
    sh(session, "mkdir tests; echo 'print(1)' > tests/t.py; ln -s /bin/true python")
    assert verify(session, FAIL).exit_code == 3


def test_files_beside_the_test_are_not_imported_by_it(session):
    sh(session, "mkdir tests; echo 'raise SystemExit(0)' > json.py; cp json.py tests/json.py")
    assert verify(session, "import json; raise SystemExit(3)").exit_code == 3


def test_a_check_past_its_deadline_has_failed_and_says_so(session):
    found = verify(session, "print('begun', flush=True); import time; time.sleep(60)", seconds=3)
    assert (found.exit_code, found.output) == (None, "begun\n[not done after 3 s]")


def test_of_endless_output_the_end_is_kept(session):
    found = verify(session, "for n in range(300000): print(n)\nraise SystemExit(1)")
    assert found.output.endswith("\n299999\n")
    assert len(found.output) <= 8192


def test_a_command_that_is_not_there_has_failed(session):
    found = session.verify({}, ("no-such-program",), timeout_seconds=20)
    assert (found.exit_code, found.output) == (None, "no-such-program: No such file or directory")


def test_a_check_has_a_clean_environment_and_a_home_of_its_own(session, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    text = (
        "import os, subprocess, sys\n"
        "code = 'import os; print(sorted(os.environ), os.listdir(os.environ[\"HOME\"]))'\n"
        "exec(code)\n"
        "sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-c', code])\n"
    )
    own, programs = verify(session, text).output.splitlines()
    for output in (own, programs):
        assert "SECRET" not in output
        assert output.endswith(" []")


def test_what_the_session_left_running_is_ended_before_the_check(sandbox, session):
    if "fork" not in sandbox.label:
        pytest.skip("a process of its own is what `fork` gives a session")
    path = call(session, "where").text
    call(session, "leave_running")
    found = verify(session, f"import os; print(os.path.exists({path!r}))")
    assert found.output == "False\n"


def test_the_check_ends_the_session_and_leaves_nothing(sandbox):
    if "none" in sandbox.label:
        pytest.skip("without a box the session lives on")
    session = sandbox.open(seed=7, timeout_seconds=20)
    assert verify(session).passed
    with pytest.raises(WorldFailure, match="has no session"):
        call(session, "here")
    session.close()


def test_two_sessions_are_checked_at_once(sandbox):
    sessions = [sandbox.open(seed=seed, timeout_seconds=20) for seed in (1, 2)]
    said = [verify(session, "print(open('notes/a.txt').read())").output for session in sessions]
    assert said == ["seed 1\n\n", "seed 2\n\n"]
    for session in sessions:
        session.close()


# --- errors in the app ---


def test_a_table_named_files_is_refused_beside_files(tmp_path):
    spec = shop(
        tmp_path,
        "state.files=layout.py:lay_out",
        schema="CREATE TABLE files (id);",
        yaml=YAML,
        layout="",
    )
    with pytest.raises(
        SpecError,
        match=r"have a table named 'files' \('files' is reserved for the work folder\)",
    ):
        read_primary_keys(spec, "CREATE TABLE files (id);")


def test_a_layout_that_is_not_there_is_told_with_its_line(tmp_path):
    with pytest.raises(SpecError, match=r"state.files: no such file"):
        shop(tmp_path, "state.files=nowhere.py:lay_out")


def test_a_tool_that_asks_for_a_folder_needs_one():
    with pytest.raises(
        SpecError, match=r"asks for 'folder', the work folder, which needs state.files"
    ):
        open_sandbox(App(FOLDER.root, FOLDER.tools), options(("none", "state")))
