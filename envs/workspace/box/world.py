"""Fill one episode's work folder from a seed: logs, tables, settings, notes, reports, programs.

Every folder contains the cases that tasks need: empty files, duplicates, a broken JSON file, a
program with a bug, world-writable files. Names differ between folders. The model may read this file
in the sandbox, so it contains no solutions: the repaired program and JSON are in the tasks.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import words

CITIES = (
    "Basel",
    "Cork",
    "Delft",
    "Eger",
    "Faro",
    "Ghent",
    "Hoorn",
    "Izola",
    "Jena",
    "Kotka",
    "Lugo",
    "Mons",
)
PRODUCTS = (
    "bolt",
    "bracket",
    "cable",
    "clamp",
    "filter",
    "gasket",
    "hinge",
    "latch",
    "nozzle",
    "pulley",
    "spring",
    "valve",
)
LEVELS = ("INFO", "INFO", "INFO", "WARNING", "ERROR")
EVENTS = (
    "started",
    "connection lost",
    "retry",
    "cache full",
    "slow answer",
    "saved",
    "user left",
    "disk nearly full",
)


def lay_out(folder: Path, seed: int) -> None:
    """Fill an empty folder; the result depends only on the seed."""
    rng = random.Random(seed)
    files = (
        _logs(rng) | _tables(rng) | _settings(rng) | _notes(rng) | _reports(rng) | _programs(rng)
    )
    for name in sorted({path.partition("/")[0] for path in files}):
        os.mkdir(folder / name)
        os.chmod(folder / name, 0o755)
    for path, text in files.items():
        _put(f"{folder}/{path}", text)
    _loosen(folder, rng, [path for path in files if path.startswith("shared/")])


def _put(path: str, text: str) -> None:
    with open(path, "wb") as file:
        file.write(text.encode())
        os.fchmod(file.fileno(), 0o644)


def _loosen(folder: Path, rng: random.Random, shared: list[str]) -> None:
    """Make two to four shared files world-writable and one private."""
    chosen = rng.sample(shared, rng.randint(3, 5))
    for path in chosen[1:]:
        (folder / path).chmod(rng.choice((0o666, 0o646)))
    (folder / chosen[0]).chmod(0o600)


def _logs(rng: random.Random) -> dict[str, str]:
    return {f"logs/{name}.log": _log(rng) for name in words.fresh(rng, 3)}


def _log(rng: random.Random) -> str:
    minute = 0
    lines = []
    for _ in range(rng.randint(18, 40)):
        minute += rng.randint(1, 30)
        stamp = f"2026-02-{1 + minute // 1440:02} {minute // 60 % 24:02}:{minute % 60:02}"
        lines.append(f"{stamp} {rng.choice(LEVELS)} {rng.choice(EVENTS)}")
    return _text(lines)


def _tables(rng: random.Random) -> dict[str, str]:
    customers = [f"C{number}" for number in rng.sample(range(100, 1000), 8)]
    cities = rng.sample(CITIES, 4)
    people = [f"{one},{words.name(rng)},{rng.choice(cities)}" for one in customers]
    products = rng.sample(PRODUCTS, 5)
    orders = [
        f"{number},{rng.choice(customers)},{rng.choice(products)},{rng.randint(1, 30)}"
        for number in sorted(rng.sample(range(1000, 10_000), rng.randint(14, 24)))
    ]
    stock = {
        f"{product}-{rng.randint(10, 99)}": {
            "count": rng.randint(0, 60),
            "price": rng.randint(2, 90),
        }
        for product in PRODUCTS
    }
    return {
        "data/customers.csv": _text(["id,name,city", *people]),
        "data/orders.csv": _text(["number,customer,product,quantity", *orders]),
        "data/stock.json": json.dumps(stock, indent=2) + "\n",
    } | {
        f"data/{name}.csv": _text(["item,amount", *_amounts(rng)])
        for name in words.fresh(rng, 2, "part")
    }


def _amounts(rng: random.Random) -> list[str]:
    return [f"{words.word(rng)},{rng.randint(1, 500)}" for _ in range(rng.randint(3, 6))]


def _settings(rng: random.Random) -> dict[str, str]:
    names = words.fresh(rng, 2)
    ini = [
        f"[{names[0]}]",
        f"port = {rng.randint(1024, 9999)}",
        f"workers = {rng.randint(1, 32)}",
        f"timeout = {rng.randint(5, 600)}",
        f"host = {words.word(rng)}.example",
    ]
    return {f"config/{names[0]}.ini": _text(ini), f"config/{names[1]}.json": _broken(rng)}


def _broken(rng: random.Random) -> str:
    """Return an object as invalid JSON, broken in one of four ways."""
    fields = {
        word: rng.choice((rng.randint(1, 99), words.word(rng))) for word in words.fresh(rng, 5)
    }
    text = json.dumps(fields, indent=2) + "\n"
    how = rng.choice(("comma too many", "comma missing", "wrong quotes", "no quotes"))
    if how == "comma too many":
        return text.replace("\n}", ",\n}")
    if how == "comma missing":
        return text.replace(",\n", "\n", 1)
    if how == "wrong quotes":
        return text.replace('"', "'")
    return text.replace('  "', "  ").replace('":', ":")


def _notes(rng: random.Random) -> dict[str, str]:
    files = {
        f"drafts/{name}.{rng.choice(('txt', 'txt', 'md'))}": _prose(rng)
        for name in words.fresh(rng, 6)
    }
    files |= {f"notes/{name}.txt": _prose(rng) for name in words.fresh(rng, 3)}
    files |= {f"notes/{name}.txt": "" for name in words.fresh(rng, rng.randint(2, 3))}
    files |= {f"shared/{name}.txt": _prose(rng) for name in words.fresh(rng, 6)}
    return files | _doubles(rng) | {f"lists/{name}.txt": _list(rng) for name in words.fresh(rng, 2)}


def _doubles(rng: random.Random) -> dict[str, str]:
    """Return three to five different texts, one of them three times and another one twice."""
    texts = [_prose(rng) for _ in range(rng.randint(3, 5))]
    names = words.fresh(rng, len(texts) + 3)
    rng.shuffle(names)
    return {
        f"inbox/{name}.txt": text
        for name, text in zip(names, [*texts, texts[0], texts[0], texts[1]], strict=True)
    }


def _list(rng: random.Random) -> str:
    lines = words.fresh(rng, 7)
    lines += rng.sample(lines, 3)
    rng.shuffle(lines)
    return _text(lines)


def _reports(rng: random.Random) -> dict[str, str]:
    days = rng.sample(range(1, 360), 4)
    stamps = [f"{2024 + day % 2}-{1 + day // 31:02}-{1 + day % 28:02}" for day in days]
    return {f"reports/{words.word(rng)}-{stamp}.txt": _prose(rng) for stamp in stamps}


def _programs(rng: random.Random) -> dict[str, str]:
    names = words.fresh(rng, 5)
    files = {f"scripts/{name}.sh": f"#!/bin/sh\necho {words.word(rng)}\n" for name in names[:3]}
    files[f"scripts/{names[3]}.txt"] = _prose(rng)
    return files | {f"programs/{names[4]}.py": rng.choice(PROGRAMS)}


def _prose(rng: random.Random) -> str:
    return _text(
        [
            " ".join(words.word(rng) for _ in range(rng.randint(3, 6)))
            for _ in range(rng.randint(1, 3))
        ]
    )


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


PROGRAMS = (
    '''"""Prints the average of whole numbers, with two decimals: 3 4 -> 3.50"""

import sys

numbers = [int(word) for word in sys.argv[1:]]
print(f"{sum(numbers) // len(numbers):.2f}")
''',
    '''"""Prints the largest of whole numbers, which may be negative: -5 -2 -9 -> -2"""

import sys

largest = 0
for word in sys.argv[1:]:
    largest = max(largest, int(word))
print(largest)
''',
    '''"""Says yes or no: does a word read the same backwards, whatever the case? Level -> yes"""

import sys

word = sys.argv[1]
print("yes" if word == word[::-1] else "no")
''',
    '''"""Prints the sum of the whole numbers from 1 to the one that is given, that one included: \
4 -> 10"""

import sys

print(sum(range(1, int(sys.argv[1]))))
''',
    '''"""Says yes or no: is a year a leap year? 2024 -> yes, 1900 -> no"""

import sys

year = int(sys.argv[1])
print("yes" if year % 4 == 0 else "no")
''',
    '''"""Prints how many words a text has; spaces may be doubled: "one  two" -> 2"""

import sys

print(len(sys.argv[1].split(" ")))
''',
    '''"""Prints seconds as minutes and seconds: 125 -> 2:05"""

import sys

minutes, seconds = divmod(int(sys.argv[1]), 60)
print(f"{minutes}:{seconds}")
''',
    '''"""Prints each different word once, in the order of the first time: b a b -> b a"""

import sys

print(" ".join(sorted(set(sys.argv[1:]))))
''',
)
