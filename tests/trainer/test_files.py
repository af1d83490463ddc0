"""Atomic files and folders: modes, links, and leftovers of a kill."""

import os
import stat

import pytest

from envgym_trainer.files import apply_umask, atomic_folder, recover, write_atomic


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def private(path):
    """Write a file as libraries do that write a private temporary file and rename it."""
    path.write_bytes(b"weights")
    path.chmod(0o600)


def test_every_file_of_an_atomic_folder_has_the_mode_of_the_umask(tmp_path, umask):
    with atomic_folder(tmp_path / "adapter") as folder:
        private(folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        (folder / "inner").mkdir(mode=0o700)
        private(folder / "inner" / "learner.pt")
    made = sorted(path for path in (tmp_path / "adapter").rglob("*"))
    assert len(made) == 4
    assert {mode_of(path) for path in made if path.is_file()} == {0o666 & ~umask}
    assert {mode_of(path) for path in made if path.is_dir()} == {0o777 & ~umask}
    assert mode_of(tmp_path / "adapter") == 0o777 & ~umask


def test_a_file_that_is_written_atomically_has_the_mode_of_the_umask(tmp_path, umask):
    write_atomic(tmp_path / "config.yaml", "a: 1\n")
    assert mode_of(tmp_path / "config.yaml") == 0o666 & ~umask


def test_modes_are_not_changed_through_a_link_and_the_umask_stays(tmp_path, umask):
    target = tmp_path / "elsewhere"
    private(target)
    link = tmp_path / "link"
    link.symlink_to(target)
    apply_umask(link)
    assert mode_of(target) == 0o600
    assert os.umask(umask) == umask
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "link"}
    apply_umask()  # nothing to do


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_leftover_that_is_a_link_is_removed_and_not_followed(tmp_path, kind):
    outside = tmp_path / "outside"
    if kind == "file":
        outside.write_text("kept")
    elif kind == "folder":
        outside.mkdir()
        (outside / "kept").touch()
    place = tmp_path / "run"
    place.mkdir()
    (place / ".adapter.partial").symlink_to(outside)
    (place / ".metrics.jsonl.old").symlink_to(outside)
    (place / ".checkpoints.old").symlink_to(outside)
    (place / "metrics.jsonl").touch()
    recover(place)
    assert [path.name for path in place.iterdir()] == ["metrics.jsonl"]
    assert kind != "file" or outside.read_text() == "kept"
    assert kind != "folder" or (outside / "kept").exists()


def test_writing_does_not_follow_a_link_with_the_temporary_name(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / ".run.json.partial").symlink_to(outside)
    write_atomic(tmp_path / "run.json", "{}")
    assert outside.read_text() == "kept"
    assert (tmp_path / "run.json").read_text() == "{}"
    assert not (tmp_path / "run.json").is_symlink()
