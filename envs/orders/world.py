"""Fill the order desk's tables from a seed: 24 customers, 20 products, 60 orders, four refunds.

Tasks rely on two properties: twelve customers have exactly one open order, and twelve have a
delivered order with one product. Uses only the standard library, because it runs in the sandbox.
"""

from __future__ import annotations

import random
import sqlite3

from names import CARRIERS, FIRST, KINDS, LAST, LOOKS, email_address, phone_number


def build(db: sqlite3.Connection, seed: int) -> None:
    """Fill the empty tables of the OpenAPI document; the result depends only on the seed."""
    rng = random.Random(seed)
    customers = _customers(db, rng)
    products = _products(db, rng)
    orders = _orders(db, rng, customers)
    _items(db, rng, orders, products)
    _refunds(db, rng, orders)


def _ids(rng: random.Random, letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in rng.sample(range(1000, 9000), count)]


def _customers(db: sqlite3.Connection, rng: random.Random) -> list[str]:
    names = [
        f"{first} {last}"
        for first, last in zip(rng.sample(FIRST, 24), rng.sample(LAST, 24), strict=True)
    ]
    rows = [
        (id_, name, email_address(rng), phone_number(rng))
        for id_, name in zip(_ids(rng, "C", 24), names, strict=True)
    ]
    db.executemany("INSERT INTO customers (id, name, email, phone) VALUES (?, ?, ?, ?)", rows)
    return [row[0] for row in rows]


def _products(db: sqlite3.Connection, rng: random.Random) -> list[str]:
    names = rng.sample([f"{look} {kind}" for look in LOOKS for kind in KINDS], 20)
    rows = [
        (id_, name, 5 * rng.randint(24, 180), rng.randint(100, 900))
        for id_, name in zip(_ids(rng, "P", 20), names, strict=True)
    ]
    db.executemany("INSERT INTO products (id, name, price, stock) VALUES (?, ?, ?, ?)", rows)
    return [row[0] for row in rows]


def _orders(db: sqlite3.Connection, rng: random.Random, customers: list[str]) -> list[tuple]:
    """Insert one delivered order per customer, open orders for twelve, and 24 other orders."""
    wanted = [(customer, "delivered") for customer in customers] + [
        (customer, "open") for customer in customers[:12]
    ]
    wanted += [
        (rng.choice(customers), rng.choice(("packed", "shipped", "cancelled"))) for _ in range(24)
    ]
    days = [f"2026-02-{rng.randint(1, 28):02}T10:00:00" for _ in wanted]
    ids = _ids(rng, "O", len(wanted))
    rows = [
        (id_, *who, rng.choice(CARRIERS), None, day)
        for id_, who, day in zip(ids, wanted, days, strict=True)
    ]
    db.executemany(
        "INSERT INTO orders (id, customer_id, status, carrier, note, created_at) VALUES (?, ?, "
        "?, ?, ?, ?)",
        rows,
    )
    return rows


def _items(
    db: sqlite3.Connection, rng: random.Random, orders: list[tuple], products: list[str]
) -> None:
    """Insert one product in each of the first twelve orders and two in each other order."""
    held = [
        (order[0], product)
        for n, order in enumerate(orders)
        for product in rng.sample(products, 1 if n < 12 else 2)
    ]
    rows = [
        (id_, order, product, rng.randint(2, 5))
        for id_, (order, product) in zip(_ids(rng, "I", len(held)), held, strict=True)
    ]
    db.executemany(
        "INSERT INTO order_items (id, order_id, product_id, quantity) VALUES (?, ?, ?, ?)", rows
    )


def _refunds(db: sqlite3.Connection, rng: random.Random, orders: list[tuple]) -> None:
    """Insert refunds for four of the delivered orders with two products."""
    refunded = rng.sample([order[0] for order in orders[12:24]], 4)
    rows = [
        (f"R{101 + n}", order, 5 * rng.randint(2, 20), "late", "2026-02-28T12:00:00")
        for n, order in enumerate(refunded)
    ]
    db.executemany(
        "INSERT INTO refunds (id, order_id, amount, reason, created_at) VALUES (?, ?, ?, ?, ?)",
        rows,
    )
