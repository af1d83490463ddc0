"""Two items and two files."""


def fill(db, seed):
    db.executemany("INSERT INTO items VALUES (?, ?)", [(1, 10), (2, 20)])


def lay_out(folder, seed):
    (folder / "rates.txt").write_text(f"{seed}\n")
    (folder / "program.py").write_text("print(0)\n")
