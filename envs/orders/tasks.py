"""Tasks of the order desk: one call (L0), after a lookup by name (L1), across tables (L2).

One template of each level and the last phrasings of each kind of request are held out.
"""

from __future__ import annotations

import wording
from names import CARRIERS, email_address, phone_number

from envgym import Change, Draw, Task, ToolCall, template

SHORT = (
    "list_customers",
    "update_customer",
    "list_products",
    "update_product",
    "create_order",
    "update_order",
)
"""Tools of levels L0 and L1; the shared system prompt benefits from the prefix cache."""
LONG = (
    "list_customers",
    "list_products",
    "list_orders",
    "update_order",
    "list_order_items",
    "add_order_item",
    "update_order_item",
    "remove_order_item",
    "refund_order",
)
NEXT_STATUS = {
    "open": ("packed", "cancelled"),
    "packed": ("shipped", "cancelled"),
    "shipped": ("delivered",),
}
NOTES = (
    "ring twice",
    "leave with neighbour",
    "gift wrap",
    "call before",
    "no plastic",
    "back door",
    "fragile",
    "second floor",
)

# --- L0: one call, the id is given ---


@template(level="L0")
def set_status(draw: Draw) -> Task:
    order = draw.row(
        "SELECT id, status FROM orders WHERE status IN ('open', 'packed', 'shipped') ORDER BY id"
    )
    return _order(
        draw, order["id"], "status", draw.rng.choice(NEXT_STATUS[order["status"]]), wording.STATUS
    )


@template(level="L0")
def set_carrier(draw: Draw) -> Task:
    order = draw.row(
        "SELECT id, carrier FROM orders WHERE status IN ('open', 'packed') ORDER BY id"
    )
    return _order(
        draw, order["id"], "carrier", _other_carrier(draw, order["carrier"]), wording.CARRIER
    )


@template(level="L0", splits=("test",))
def set_note(draw: Draw) -> Task:
    return _order(
        draw,
        draw.row("SELECT id FROM orders ORDER BY id")["id"],
        "note",
        draw.rng.choice(NOTES),
        wording.NOTE,
    )


@template(level="L0")
def set_price(draw: Draw) -> Task:
    product = draw.row("SELECT id FROM products ORDER BY id")["id"]
    return _product(draw, product, product, "price", wording.PRICE)


@template(level="L0")
def set_phone(draw: Draw) -> Task:
    customer = draw.row("SELECT id FROM customers ORDER BY id")["id"]
    return _customer(draw, customer, customer, "phone", phone_number(draw.rng), wording.PHONE)


# --- L1: one look-up by name, then the call ---


@template(level="L1")
def phone_by_name(draw: Draw) -> Task:
    customer = _person(draw)
    return _customer(
        draw,
        customer["id"],
        customer["name"],
        "phone",
        phone_number(draw.rng),
        wording.PHONE,
        _find(customer),
    )


@template(level="L1", splits=("test",))
def email_by_name(draw: Draw) -> Task:
    customer = _person(draw)
    return _customer(
        draw,
        customer["id"],
        customer["name"],
        "email",
        email_address(draw.rng),
        wording.EMAIL,
        _find(customer),
    )


@template(level="L1")
def price_by_name(draw: Draw) -> Task:
    product = draw.row("SELECT id, name FROM products ORDER BY id")
    return _product(
        draw, product["id"], f"the {product['name']}", "price", wording.PRICE, _look(product)
    )


@template(level="L1")
def stock_by_name(draw: Draw) -> Task:
    product = draw.row("SELECT id, name FROM products ORDER BY id")
    return _product(
        draw, product["id"], f"the {product['name']}", "stock", wording.STOCK, _look(product)
    )


@template(level="L1")
def new_order(draw: Draw) -> Task:
    customer = _person(draw)
    carrier = draw.rng.choice(CARRIERS)
    wanted = {"customer_id": customer["id"], "carrier": carrier}
    return draw.task(
        prompt=wording.say(draw, wording.NEW_ORDER, who=customer["name"], value=carrier),
        oracle=[_find(customer), ToolCall("create_order", wanted)],
        changes=[Change.insert("orders", **wanted, status="open")],
        tools=SHORT,
    )


# --- L2: several look-ups ---


@template(level="L2")
def carrier_of_open_order(draw: Draw) -> Task:
    found = _open_order(draw)
    carrier = _other_carrier(draw, found["carrier"])
    return draw.task(
        prompt=wording.say(draw, wording.OPEN_CARRIER, who=found["name"], value=carrier),
        oracle=[
            *_way_to_order(found, "open"),
            ToolCall("update_order", {"id": found["order_id"], "carrier": carrier}),
        ],
        changes=[Change.update("orders", found["order_id"], carrier=carrier)],
        tools=LONG,
    )


@template(level="L2")
def add_to_open_order(draw: Draw) -> Task:
    found = _open_order(draw)
    quantity = draw.rng.randint(2, 9)
    held = "SELECT product_id FROM order_items WHERE order_id = ?"
    product = draw.row(
        f"SELECT id, name FROM products WHERE id NOT IN ({held}) ORDER BY id", found["order_id"]
    )
    wanted = {"order_id": found["order_id"], "product_id": product["id"], "quantity": quantity}
    return draw.task(
        prompt=wording.say(
            draw, wording.ADD, who=found["name"], what=product["name"], value=quantity
        ),
        oracle=[*_way_to_order(found, "open"), _look(product), ToolCall("add_order_item", wanted)],
        changes=[Change.insert("order_items", **wanted)],
        tools=LONG,
    )


@template(level="L2", splits=("test",))
def take_from_open_order(draw: Draw) -> Task:
    found = _open_order(draw)
    item = _item(draw, found["order_id"])
    way = [
        *_way_to_order(found, "open"),
        _look(item),
        ToolCall("list_order_items", {"order_id": found["order_id"]}),
    ]
    return draw.task(
        prompt=wording.say(draw, wording.REMOVE, who=found["name"], what=item["name"]),
        oracle=[
            *way,
            ToolCall("remove_order_item", {"order_id": found["order_id"], "id": item["id"]}),
        ],
        changes=[Change.delete("order_items", item["id"])],
        tools=LONG,
    )


@template(level="L2")
def refund_delivered(draw: Draw) -> Task:
    """Refund a delivered order with one product in full: price times quantity, looked up."""
    alone = "SELECT order_id FROM order_items GROUP BY order_id HAVING count(*) = 1"
    found = draw.row(f"{_PEOPLE} WHERE o.status = 'delivered' AND o.id IN ({alone}) ORDER BY o.id")
    item = _item(draw, found["order_id"])
    reason = draw.rng.choice(("damaged", "late", "unwanted"))
    wanted = {
        "order_id": found["order_id"],
        "amount": item["price"] * item["quantity"],
        "reason": reason,
    }
    way = [
        *_way_to_order(found, "delivered"),
        ToolCall("list_order_items", {"order_id": found["order_id"]}),
        _look(item),
    ]
    return draw.task(
        prompt=wording.say(
            draw, wording.REFUND, who=found["name"], what=item["name"], value=reason
        ),
        oracle=[*way, ToolCall("refund_order", wanted)],
        changes=[Change.insert("refunds", **wanted)],
        tools=LONG,
    )


# --- helpers ---

_PEOPLE = (
    "SELECT c.id, c.name, o.id AS order_id, o.carrier FROM customers c JOIN orders o ON "
    "o.customer_id = c.id"
)


def _person(draw: Draw) -> dict:
    return draw.row("SELECT id, name FROM customers ORDER BY id")


def _open_order(draw: Draw) -> dict:
    return draw.row(f"{_PEOPLE} WHERE o.status = 'open' ORDER BY o.id")


def _item(draw: Draw, order: str) -> dict:
    query = """SELECT i.id, i.product_id, i.quantity, p.name, p.price
               FROM order_items i JOIN products p ON p.id = i.product_id
               WHERE i.order_id = ? ORDER BY i.id"""
    return draw.row(query, order)


def _find(customer: dict) -> ToolCall:
    return ToolCall("list_customers", {"q": customer["name"]})


def _look(product: dict) -> ToolCall:
    return ToolCall("list_products", {"q": product["name"]})


def _way_to_order(found: dict, status: str) -> list[ToolCall]:
    return [_find(found), ToolCall("list_orders", {"customer_id": found["id"], "status": status})]


def _other_carrier(draw: Draw, carrier: str) -> str:
    return draw.rng.choice([other for other in CARRIERS if other != carrier])


def _order(draw: Draw, order: str, field: str, value: str, phrasings: tuple[str, ...]) -> Task:
    return draw.task(
        prompt=wording.say(draw, phrasings, what=order, value=value),
        oracle=[ToolCall("update_order", {"id": order, field: value})],
        changes=[Change.update("orders", order, **{field: value})],
        tools=SHORT,
    )


def _product(
    draw: Draw, product: str, spoken: str, field: str, phrasings: tuple[str, ...], *way: ToolCall
) -> Task:
    old = draw.row(f"SELECT {field} FROM products WHERE id = ?", product)[field]
    value = draw.rng.choice([number for number in range(105, 995, 5) if number != old])
    return draw.task(
        prompt=wording.say(draw, phrasings, what=spoken, value=value),
        oracle=[*way, ToolCall("update_product", {"id": product, field: value})],
        changes=[Change.update("products", product, **{field: value})],
        tools=SHORT,
    )


def _customer(
    draw: Draw,
    customer: str,
    spoken: str,
    field: str,
    value: str,
    phrasings: tuple[str, ...],
    *way: ToolCall,
) -> Task:
    return draw.task(
        prompt=wording.say(draw, phrasings, who=spoken, value=value),
        oracle=[*way, ToolCall("update_customer", {"id": customer, field: value})],
        changes=[Change.update("customers", customer, **{field: value})],
        tools=SHORT,
    )
