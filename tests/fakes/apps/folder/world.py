import os


def lay_out(folder, seed):
    if seed == 1_000_002:
        raise RuntimeError("no files for this seed")
    if seed == 1_000_003:
        os.mkfifo(folder / "pipe")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text(f"seed {seed}\n")
    (folder / "empty.txt").touch()
    (folder / "to_a").symlink_to("notes/a.txt")
