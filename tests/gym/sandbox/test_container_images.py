"""Images built from a Dockerfile: named by their content, built once, with the log on failure."""

import contextlib
import logging
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import docker.errors
import pytest

from envgym.env import ToolWorld
from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox.containers.engine import connect
from envgym.sandbox.containers.images import build_image, pack_context, tag_of
from envgym.sandbox.options import BuildOptions
from envgym.spec.environment import load_spec
from tests.fakes import shop_env as shop
from tests.fakes.kiosk_app import need_docker, wait_until

DOCKERFILE = "FROM python:3.12-slim\nCOPY word.txt /word.txt\n"


@pytest.fixture
def folder(tmp_path):
    """A build context with a unique word, so that its image does not exist yet."""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "word.txt").write_text(uuid.uuid4().hex)
    return tmp_path


def tag(folder: Path, dockerfile: str = "Dockerfile") -> str:
    with tempfile.TemporaryFile() as archive:
        return tag_of(archive, pack_context(folder, folder / dockerfile, archive))


@pytest.fixture
def api():
    need_docker()
    api = connect()
    before = {each["Id"] for each in api.images()}
    yield api
    left = api.images(filters={"label": "envgym.build"}) + api.images(
        filters={"dangling": True}
    )  # layers of a failed build
    for image in left:
        with contextlib.suppress(docker.errors.NotFound):
            if image["Id"] not in before and "/word.txt" in str(api.history(image["Id"])):
                wait_until(lambda name=image["Id"]: is_removed(api, name))
    api.close()


def is_removed(api, image: str) -> bool:
    """Remove an image and return whether it is gone; its last container may still use it."""
    try:
        api.remove_image(image, force=True)
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
        return False
    return True


# --- the name depends on the content ---


def test_the_same_files_have_the_same_tag_whenever_they_were_written(folder):
    first = tag(folder)
    assert first.startswith("envgym-build:")
    (folder / "word.txt").write_text((folder / "word.txt").read_text())
    (folder / "word.txt").touch()
    assert tag(folder) == first


def test_a_change_of_content_mode_name_or_dockerfile_gives_another_tag(folder):
    tags = [tag(folder)]
    (folder / "word.txt").chmod(0o755)
    tags.append(tag(folder))
    (folder / "word.txt").write_text("another")
    tags.append(tag(folder))
    (folder / "word.txt").rename(folder / "words.txt")
    tags.append(tag(folder))
    (folder / "Dockerfile").write_text(DOCKERFILE + "ENV X=1\n")
    tags.append(tag(folder))
    (folder / "link").symlink_to("words.txt")
    tags.append(tag(folder))
    assert len(set(tags)) == 6


def test_files_that_dockerignore_leaves_out_change_nothing(folder):
    (folder / ".dockerignore").write_text("# notes\n*.log\nnotes\n!keep.log\n")
    first = tag(folder)
    (folder / "run.log").write_text("x")
    (folder / "notes").mkdir()
    (folder / "notes/today.txt").write_text("x")
    assert tag(folder) == first
    (folder / "keep.log").write_text("x")
    assert tag(folder) != first


def test_another_dockerfile_of_the_same_folder_gives_another_tag(folder):
    (folder / "Other").write_text(DOCKERFILE)
    assert tag(folder, "Other") != tag(folder, "Dockerfile")


# --- mistakes ---


def test_image_and_build_exclude_each_other(tmp_path):
    text = shop.YAML + "sandbox: {image: acme/crm:1, build: {context: .}}\n"
    path = shop.write(tmp_path, yaml=text.replace("sandbox: {backend: none}\n", ""))
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    with pytest.raises(
        SpecError, match=r"shop.yaml:\d+: sandbox: image and build exclude each other"
    ):
        load_spec(path)


def test_a_dockerfile_that_is_missing_is_told_before_anything_runs(tmp_path):
    with pytest.raises(SpecError, match=r"sandbox.build: no such file: .*/box/Dockerfile"):
        shop.shop(tmp_path, "sandbox.build={context: box}")


@pytest.mark.docker
def test_a_build_that_fails_is_told_with_the_end_of_its_log(api, folder):
    steps = "\n".join(f"RUN echo step-{step}" for step in range(2))
    (folder / "Dockerfile").write_text(f"{DOCKERFILE}{steps}\nRUN echo the last words; exit 7\n")
    with pytest.raises(PrerequisiteError) as caught:
        build_image(api, BuildOptions(), root=folder)
    told = str(caught.value)
    assert told.startswith(f"sandbox.build: {folder.resolve()}/Dockerfile cannot be built (")
    assert "\n  the last words\n" in told
    assert told.endswith("sandbox.backend=local")


@pytest.mark.docker
def test_a_build_without_end_of_log_shows_the_last_twenty_lines_only(api, folder):
    (folder / "Dockerfile").write_text(f"{DOCKERFILE}RUN seq 1000 1999; exit 1\n")
    with pytest.raises(PrerequisiteError) as caught:
        build_image(api, BuildOptions(), root=folder)
    assert "\n  1999\n" in str(caught.value)
    assert "1900" not in str(caught.value)


# --- real images ---


@pytest.mark.docker
def test_the_environment_runs_in_the_image_that_its_yaml_builds(api, tmp_path, caplog):
    (tmp_path / "box").mkdir()
    (tmp_path / "box/Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "box/word.txt").write_text(word := uuid.uuid4().hex)
    tools = (
        'def word() -> str:\n    """The word of the image."""\n'
        '    return open("/word.txt").read()\n'
    )
    spec = shop.shop(
        tmp_path,
        "sandbox={backend: docker, build: {context: box}}",
        "episode.closing_tools=[]",
        tools=tools,
    )
    with caplog.at_level(logging.WARNING, logger="envgym"):
        for _ in range(2):
            world = ToolWorld(spec)
            session = world.sandbox.open(seed=0, timeout_seconds=20)
            assert (
                session.call("word", {}, now="2026-01-05T09:00:00", timeout_seconds=20).text == word
            )
            assert "(envgym-build:" in world.sandbox.label
            world.close()
    assert (
        len([line for line in caplog.messages if "building the image envgym-build:" in line]) == 1
    )


@pytest.mark.docker
def test_a_dockerfile_outside_of_its_context_is_found(api, folder):
    (folder / "box").mkdir()
    (folder / "word.txt").rename(folder / "box/word.txt")
    built = build_image(api, BuildOptions(context="box", dockerfile="../Dockerfile"), root=folder)
    assert api.inspect_image(built)["Config"]["Labels"]["envgym.build"] == built


BUILDER = """
import logging, pathlib, sys
from envgym.sandbox.containers.engine import connect
from envgym.sandbox.containers.images import build_image
from envgym.sandbox.options import BuildOptions
logging.basicConfig(format="%(message)s")
print(build_image(connect(), BuildOptions(), root=pathlib.Path(sys.argv[1])))
"""


@pytest.mark.docker
def test_two_processes_that_want_one_image_build_it_once(api, folder):
    (folder / "Dockerfile").write_text(f"{DOCKERFILE}RUN sleep 2\n")
    command = [sys.executable, "-c", BUILDER, str(folder)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] == tag(folder) + "\n"
    assert sum(errors.count("building the image") for _, errors in said) == 1
