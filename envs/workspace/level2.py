"""Level L2: compute a result from the files, and write it down or act on it."""

from __future__ import annotations

import json

import wording
from parts import answer_file, files_in, gone, made, new_word, pick, rows, run
from wording import say

from envgym import Draw, Task, template

CUSTOMERS = "data/customers.csv"
ORDERS = "data/orders.csv"
STOCK = "data/stock.json"


@template(level="L2")
def count_lines(draw: Draw) -> Task:
    path = pick(draw, "logs")
    level = draw.rng.choice(("ERROR", "WARNING"))
    answer = answer_file(draw)
    count = sum(f" {level} " in line for line in draw.files[path].splitlines())
    prompt = say(draw, wording.COUNT, path=path, level=level, answer=answer)
    return _answered(draw, prompt, f"grep -c ' {level} ' {path} > {answer}", answer, count)


@template(level="L2")
def sum_column(draw: Draw) -> Task:
    orders = rows(draw.files[ORDERS])
    answer = answer_file(draw)
    product = draw.rng.choice(sorted({order["product"] for order in orders}))
    total = sum(int(order["quantity"]) for order in orders if order["product"] == product)
    prompt = say(draw, wording.SUM, path=ORDERS, product=product, answer=answer)
    return _answered(
        draw,
        prompt,
        f"grep ',{product},' {ORDERS} | awk -F, '{{s += $4}} END {{print s}}' > {answer}",
        answer,
        total,
    )


@template(level="L2")
def latest_report(draw: Draw) -> Task:
    by_day = {path.removesuffix(".txt")[-10:]: path for path in files_in(draw, "reports")}
    if len(by_day) < len(files_in(draw, "reports")):
        raise LookupError("two reports of one day")
    newest = by_day[max(by_day)]
    new = f"{new_word(draw.rng)}.txt"
    prompt = say(draw, wording.LATEST, folder="reports", new=new)
    return draw.task(
        prompt=prompt,
        oracle=[run("ls reports"), run(f"cp {newest} {new}")],
        changes=[made(new, draw.files[newest])],
    )


@template(level="L2")
def count_joined(draw: Draw) -> Task:
    people = rows(draw.files[CUSTOMERS])
    orders = rows(draw.files[ORDERS])
    answer = answer_file(draw)
    city = draw.rng.choice(sorted({person["city"] for person in people}))
    there = {person["id"] for person in people if person["city"] == city}
    count = sum(order["customer"] in there for order in orders)
    prompt = say(draw, wording.JOIN, orders=ORDERS, customers=CUSTOMERS, city=city, answer=answer)
    awk = (
        f'NR == FNR {{if ($3 == "{city}") there[$1]; next}} $2 in there {{n++}} END {{print n + 0}}'
    )
    return _answered(
        draw, prompt, f"awk -F, '{awk}' {CUSTOMERS} {ORDERS} > {answer}", answer, count
    )


@template(level="L2")
def list_low(draw: Draw) -> Task:
    stock = json.loads(draw.files[STOCK])
    answer = answer_file(draw)
    counts = sorted(article["count"] for article in stock.values())
    limit = draw.rng.choice(counts[2:6]) + 1
    low = sorted(name for name, article in stock.items() if article["count"] < limit)
    prompt = say(draw, wording.LOW, path=STOCK, limit=limit, answer=answer)
    code = (
        f'import json; s = json.load(open("{STOCK}")); print(*sorted(n for n in s if s[n]["count"] '
        f'< {limit}), sep="\\n")'
    )
    return _answered(draw, prompt, f"python -c '{code}' > {answer}", answer, "\n".join(low))


@template(level="L2", splits=("test",))
def merge_tables(draw: Draw) -> Task:
    one, two = draw.rng.sample(
        [path for path in files_in(draw, "data", ".csv") if path.startswith("data/part-")], 2
    )
    new = f"data/{new_word(draw.rng)}.csv"
    merged = draw.files[one] + draw.files[two].partition("\n")[2]
    prompt = say(draw, wording.MERGE, one=one, two=two, new=new)
    oracle = [run(f"cp {one} {new}"), run(f"tail -n +2 {two} >> {new}")]
    return draw.task(prompt=prompt, oracle=oracle, changes=[made(new, merged)])


@template(level="L2")
def remove_doubles(draw: Draw) -> Task:
    first: dict[str, str] = {}
    for path in files_in(draw, "inbox"):
        first.setdefault(draw.files[path], path)
    doubles = [path for path in files_in(draw, "inbox") if path not in first.values()]
    prompt = say(draw, wording.DOUBLES, folder="inbox", kept=draw.rng.choice(list(first.values())))
    oracle = [run("sha256sum inbox/*"), run(f"rm {' '.join(doubles)}")]
    return draw.task(prompt=prompt, oracle=oracle, changes=[gone(path) for path in doubles])


def _answered(draw: Draw, prompt: str, command: str, answer: str, value: object) -> Task:
    return draw.task(prompt=prompt, oracle=[run(command)], changes=[made(answer, f"{value}\n")])
