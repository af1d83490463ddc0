"""Levels L0 and L1: one call that the request spells out, or that needs a look at the folder."""

from __future__ import annotations

import wording
from parts import files_in, gone, made, new_path, new_word, patch, pick, read, run, write
from wording import say

from envgym import Change, Draw, Task, template

KEYS = ("port", "workers", "timeout")


@template(level="L0")
def write_note(draw: Draw) -> Task:
    path = new_path(draw, "notes", ".txt")
    text = " ".join(new_word(draw.rng) for _ in range(draw.rng.randint(2, 4)))
    prompt = say(draw, wording.WRITE, path=path, text=text)
    return draw.task(prompt=prompt, oracle=[write(path, text)], changes=[made(path, f"{text}\n")])


@template(level="L0")
def change_value(draw: Draw) -> Task:
    return _setting(draw, wording.CHANGE, look=False)


@template(level="L0")
def delete_file(draw: Draw) -> Task:
    path = pick(draw, draw.rng.choice(("drafts", "inbox", "lists", "logs", "shared")))
    return draw.task(
        prompt=say(draw, wording.DELETE, path=path),
        oracle=[run(f"rm {path}")],
        changes=[gone(path)],
    )


@template(level="L0", splits=("test",))
def rename_file(draw: Draw) -> Task:
    path = pick(draw, draw.rng.choice(("drafts", "inbox", "lists")), ".txt")
    new = new_path(draw, path.partition("/")[0], ".txt")
    prompt = say(draw, wording.RENAME, path=path, new=new)
    return draw.task(
        prompt=prompt,
        oracle=[run(f"mv {path} {new}")],
        changes=[gone(path), made(new, draw.files[path])],
    )


@template(level="L0")
def set_mode(draw: Draw) -> Task:
    path = pick(draw, "scripts", ".sh")
    mode = draw.rng.choice(("755", "750", "700"))
    prompt = say(draw, wording.EXECUTABLE, path=path, mode=mode)
    return draw.task(
        prompt=prompt,
        oracle=[run(f"chmod {mode} {path}")],
        changes=[Change.update("files", path, mode=mode)],
    )


@template(level="L1")
def rename_all(draw: Draw) -> Task:
    paths = files_in(draw, "drafts", ".txt")
    new = draw.rng.choice(("text", "rst", "old", "draft"))
    prompt = say(draw, wording.RENAME_ALL, folder="drafts", old="txt", new=new)
    command = f'for f in drafts/*.txt; do mv "$f" "${{f%.txt}}.{new}"; done'
    changes = [
        change
        for path in paths
        for change in (gone(path), made(f"{path[:-4]}.{new}", draw.files[path]))
    ]
    return draw.task(prompt=prompt, oracle=[run(command)], changes=changes)


@template(level="L1")
def delete_empty(draw: Draw) -> Task:
    empty = [path for path in files_in(draw, "notes") if not draw.files[path]]
    kept = draw.rng.choice(empty)
    prompt = say(draw, wording.DELETE_EMPTY, folder="notes", kept=kept)
    command = f"find notes -type f -empty ! -path {kept} -delete"
    return draw.task(
        prompt=prompt, oracle=[run(command)], changes=[gone(path) for path in empty if path != kept]
    )


@template(level="L1")
def change_setting(draw: Draw) -> Task:
    return _setting(draw, wording.SETTING, look=True)


@template(level="L1", splits=("test",))
def close_to_others(draw: Draw) -> Task:
    open_ones = [path for path in files_in(draw, "shared") if int(draw.modes[path], 8) & 0o002]
    prompt = say(draw, wording.CLOSE, folder="shared", path=draw.rng.choice(open_ones))
    changes = [
        Change.update("files", path, mode=format(int(draw.modes[path], 8) & ~0o002, "o"))
        for path in open_ones
    ]
    return draw.task(prompt=prompt, oracle=[run("chmod o-w shared/*")], changes=changes)


@template(level="L1")
def sort_lines(draw: Draw) -> Task:
    path = pick(draw, "lists")
    text = "".join(f"{line}\n" for line in sorted(set(draw.files[path].splitlines())))
    prompt = say(draw, wording.SORT, path=path)
    return draw.task(
        prompt=prompt,
        oracle=[run(f"sort -u -o {path} {path}")],
        changes=[Change.update("files", path, text=text)],
    )


def _setting(draw: Draw, phrasings: tuple[str, ...], *, look: bool) -> Task:
    path = pick(draw, "config", ".ini")
    key = draw.rng.choice(KEYS)
    text = draw.files[path]
    line = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
    old = line.removeprefix(f"{key} = ")
    new = draw.rng.choice([number for number in range(2, 9000) if str(number) != old])
    prompt = say(draw, phrasings, path=path, key=key, old=old, new=new)
    wanted = f"{key} = {new}"
    oracle = [*([read(path)] if look else []), patch(path, line, wanted)]
    return draw.task(
        prompt=prompt,
        oracle=oracle,
        changes=[Change.update("files", path, text=text.replace(line, wanted))],
    )
