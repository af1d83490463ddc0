"""Refunds, the one operation that is more than a table write: only paid, delivered orders qualify.

It runs in the sandbox.
"""

from __future__ import annotations

import sqlite3


def refund_order(db: sqlite3.Connection, now: str, order_id: str, amount: int, reason: str) -> dict:
    """The document's refundOrder."""
    order = db.execute("SELECT status FROM orders WHERE id = ?", (order_id,)).fetchone()
    if order is None:
        raise LookupError(f"no order '{order_id}'")
    if order[0] != "delivered":
        raise ValueError(f"order {order_id} is {order[0]}; only a delivered one is refunded")
    left = _paid(db, order_id) - _refunded(db, order_id)
    if amount > left:
        raise ValueError(f"only {left} can be paid back for order {order_id}")
    number = db.execute(
        "SELECT coalesce(max(CAST(substr(id, 2) AS INTEGER)), 100) + 1 FROM refunds"
    ).fetchone()[0]
    refund = {
        "id": f"R{number}",
        "order_id": order_id,
        "amount": amount,
        "reason": reason,
        "created_at": now,
    }
    db.execute(
        "INSERT INTO refunds (id, order_id, amount, reason, created_at) VALUES (?, ?, ?, ?, ?)",
        tuple(refund.values()),
    )
    return refund


def _paid(db: sqlite3.Connection, order_id: str) -> int:
    query = """SELECT coalesce(sum(i.quantity * p.price), 0)
               FROM order_items i JOIN products p ON p.id = i.product_id
               WHERE i.order_id = ?"""
    return db.execute(query, (order_id,)).fetchone()[0]


def _refunded(db: sqlite3.Connection, order_id: str) -> int:
    return db.execute(
        "SELECT coalesce(sum(amount), 0) FROM refunds WHERE order_id = ?", (order_id,)
    ).fetchone()[0]
