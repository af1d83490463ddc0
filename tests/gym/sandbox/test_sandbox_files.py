"""Files as state: changes in a session's work folder, and hidden tests on the final files."""

import json
import os
import stat
import time

import pytest

from envgym.errors import WorldFailure
from envgym.sandbox.agent import AppError
from envgym.sandbox.agent.file_tree import (
    MOST_BYTES,
    MOST_ENTRIES,
    Entry,
    TooLarge,
    diff_trees,
    from_plain,
    read_tree,
    to_plain,
    wipe,
    with_hidden,
    write_tree,
)
from envgym.sandbox.agent.work_folder import WorkFolder
from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import DOCKER, LOCAL, NONE, call, options
from tests.gym.sandbox.session_files import FOLDER, PASS, sh

# --- reading a tree ---


def test_a_tree_that_is_written_reads_back_as_it_was(tmp_path):
    tree = {
        "a": Entry("folder", 0o500),
        "a/b.txt": Entry("file", 0o000, b"text"),
        "a/l": Entry("link", 0o777, b"../nowhere"),
        "c.bin": Entry("file", 0o4755, b"\xff\x00"),
    }
    write_tree(tree, tmp_path)
    assert read_tree(tmp_path) == tree
    assert from_plain(json.loads(json.dumps(to_plain(tree)))) == tree


def test_reading_what_has_no_rights_leaves_the_rights_as_they_were(tmp_path):
    write_tree({"a": Entry("folder", 0o000), "b.txt": Entry("file", 0o000, b"text")}, tmp_path)
    read_tree(tmp_path)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b.txt")] == [0, 0]


def test_links_are_shown_and_never_followed(tmp_path):
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "loop").symlink_to("loop")
    assert read_tree(tmp_path) == {
        "out": Entry("link", 0o777, b"/etc"),
        "loop": Entry("link", 0o777, b"loop"),
    }


def test_a_work_folder_that_was_replaced_by_a_link_is_empty(tmp_path):
    (tmp_path / "work").symlink_to("/etc")
    assert read_tree(tmp_path / "work") == {}


def test_a_pipe_is_shown_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert read_tree(tmp_path)["pipe"].kind == "special"


def test_names_and_texts_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"\xe9")
    tree = read_tree(tmp_path)
    assert tree[name].content == b"\xe9"
    (row,) = diff_trees({}, from_plain(json.loads(json.dumps(to_plain(tree)))))["added"]
    assert row["path"] == "caf\\xe9"
    assert row["text"].startswith("sha256:")
    json.dumps(row, ensure_ascii=False).encode()  # the record of an episode is written as UTF-8


def test_too_many_entries_or_bytes_are_refused(tmp_path):
    for number in range(MOST_ENTRIES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(TooLarge, match="more than 2,000 files"):
        read_tree(tmp_path)


def test_files_of_too_many_bytes_are_refused_without_reading_them(tmp_path):
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 40)  # a sparse file of one terabyte
    with pytest.raises(TooLarge, match="bytes in files"):
        read_tree(tmp_path)


def test_bytes_within_the_limit_are_all_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * MOST_BYTES)
    assert len(read_tree(tmp_path)["a"].content) == MOST_BYTES


def test_hidden_files_win_over_whatever_stands_in_their_way():
    tree = {
        "t": Entry("link", 0o777, b"/etc"),
        "u": Entry("folder", 0o000),
        "u/x.py": Entry("folder", 0o755),
        "u/x.py/y": Entry("file", 0o644),
    }
    whole = with_hidden(tree, {"t/x.py": "1", "u/x.py": "2"})
    assert whole == {
        "t": Entry("folder", 0o755),
        "t/x.py": Entry("file", 0o644, b"1"),
        "u": Entry("folder", 0o755),
        "u/x.py": Entry("file", 0o644, b"2"),
    }


def test_wiping_removes_deep_nests_and_folders_without_rights(tmp_path):
    top = tmp_path / "top"
    write_tree({"top": Entry("folder", 0o755), "top/shut": Entry("folder", 0o000)}, tmp_path)
    here = os.open(".", os.O_RDONLY)
    os.chdir(top)
    for _ in range(3000):
        os.mkdir("deep")
        os.chdir("deep")
    os.fchdir(here)
    os.close(here)
    wipe(top)
    assert list(tmp_path.iterdir()) == []


def test_a_starting_tree_beyond_the_limits_is_the_apps_mistake(tmp_path):
    with pytest.raises(AppError, match=r"state\.files creates more than 2,000 files"):
        WorkFolder(
            lambda folder, seed: [(folder / str(n)).touch() for n in range(MOST_ENTRIES + 1)],
            tmp_path,
            1,
        )


# --- a session's folder, in every sandbox ---


@pytest.fixture(scope="module", params=NONE + LOCAL + DOCKER)
def sandbox(request):
    with_boxes = open_sandbox(FOLDER, options(request.param))
    yield with_boxes
    with_boxes.close()


def diff(session) -> dict[str, list[dict]]:
    return session.diff(timeout_seconds=20).get("files", {"added": [], "removed": []})


def test_the_model_does_not_see_the_folder_as_a_parameter(sandbox):
    tools = {tool["name"]: tool["parameters"]["properties"] for tool in sandbox.describe()}
    assert list(tools["sh"]) == ["command"]


def test_an_untouched_folder_did_not_change_and_reading_leaves_no_trace(session):
    sh(session, "cat notes/a.txt; ls -la; cat to_a")
    assert session.diff(timeout_seconds=20) == {}


def test_a_changed_file_is_one_row_gone_and_one_come(session):
    sh(session, "echo more >> notes/a.txt")
    row = {"path": "notes/a.txt", "kind": "file", "mode": "644"}
    assert diff(session) == {
        "removed": [row | {"text": "seed 7\n"}],
        "added": [row | {"text": "seed 7\nmore\n"}],
    }


def test_a_new_file_folder_or_mode_shows_and_what_is_taken_back_does_not(session):
    sh(
        session,
        "mkdir new; touch new/b; chmod 600 empty.txt; echo x > notes/a.txt;"
        " echo 'seed 7' > notes/a.txt; rm to_a",
    )
    changes = diff(session)
    assert [(row["path"], row["kind"], row["mode"]) for row in changes["added"]] == [
        ("empty.txt", "file", "600"),
        ("new", "folder", "755"),
        ("new/b", "file", "644"),
    ]
    assert [(row["path"], row["text"]) for row in changes["removed"]] == [
        ("empty.txt", ""),
        ("to_a", "notes/a.txt"),
    ]


def test_the_same_seed_gives_the_same_state_and_another_seed_another(sandbox):
    def name(seed):
        session = sandbox.open(seed=seed, timeout_seconds=20)
        session.close()
        return session.state_hash

    assert name(11) == name(11) != name(12)


def test_every_box_names_the_same_state_alike(session):
    reference = open_sandbox(FOLDER, options(("none", "state"))).open(seed=7, timeout_seconds=20)
    assert session.state_hash == reference.state_hash
    reference.close()


def test_what_the_model_may_not_read_is_compared_all_the_same(session):
    sh(session, "echo more >> notes/a.txt; chmod 000 notes/a.txt notes")
    changes = diff(session)["added"]
    assert [(row["path"], row["mode"], row["text"]) for row in changes] == [
        ("notes", "0", ""),
        ("notes/a.txt", "0", "seed 7\nmore\n"),
    ]
    assert sh(session, "stat -c %a notes") == "0\n"


def test_sessions_do_not_share_a_folder(sandbox, session):
    other = sandbox.open(seed=7, timeout_seconds=20)
    sh(other, "echo x > notes/a.txt")
    assert diff(session)["added"] == []
    other.close()


def test_a_session_leaves_no_folder_behind(sandbox, session, request):
    other = sandbox.open(seed=7, timeout_seconds=20)
    path = call(other, "where").text
    other.close()
    deadline = time.monotonic() + 10
    while sh(session, f"test -e {path} && echo there") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sh(session, f"test -e {path} && echo there") == ""


def test_a_folder_with_too_much_in_it_is_one_marker_row(session):
    sh(session, "i=0; while [ $i -lt 2100 ]; do : > f$i; i=$((i+1)); done")
    (row,) = diff(session)["added"]
    assert (row["path"], row["kind"]) == ("[cut]", "cut")
    assert "more than 2,000 files" in row["text"]
    assert session.verify({"t.py": PASS}, ("python", "t.py"), timeout_seconds=20).exit_code is None


def test_a_nest_deeper_than_a_path_may_be_long_harms_nobody(sandbox, session):
    other = sandbox.open(seed=7, timeout_seconds=20)
    if "none" in sandbox.label:
        pytest.skip("without a box the tool would move the current folder of the tests")
    call(other, "deep", levels=1500)
    assert diff(other)["added"][0]["kind"] == "cut"
    other.close()
    assert diff(session) == {"added": [], "removed": []}


def test_the_work_folder_may_be_gone(session):
    sh(session, "rm -rf ../work")
    assert [row["path"] for row in diff(session)["removed"]] == [
        "empty.txt",
        "notes",
        "notes/a.txt",
        "to_a",
    ]


def test_a_tool_works_in_the_folder(session, sandbox):
    if "none" in sandbox.label:
        pytest.skip("without a box there is one current folder for all sessions")
    assert call(session, "here").text == "true"


def test_a_layout_that_raises_fails_the_open_and_nothing_else(sandbox):
    with pytest.raises(WorldFailure, match="no files for this seed") as caught:
        sandbox.open(seed=1_000_002, timeout_seconds=20)
    assert (caught.value.kind, caught.value.stage) == ("seed_crashed", "open")
    with pytest.raises(WorldFailure, match="creates 'pipe'"):
        sandbox.open(seed=1_000_003, timeout_seconds=20)
    sandbox.open(seed=7, timeout_seconds=20).close()
