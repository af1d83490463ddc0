"""Names of people and products for tables and tasks. Uses only the standard library."""

from __future__ import annotations

import random

FIRST = (
    "Ada",
    "Bela",
    "Cora",
    "Dario",
    "Edna",
    "Fabio",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Leon",
    "Mona",
    "Nils",
    "Olga",
    "Pavel",
    "Rosa",
    "Sven",
    "Tara",
    "Udo",
    "Vera",
    "Willem",
    "Yara",
    "Zeno",
)
LAST = (
    "Adler",
    "Brandt",
    "Costa",
    "Duarte",
    "Eklund",
    "Ferrari",
    "Gomez",
    "Hansen",
    "Ivanov",
    "Jansen",
    "Keller",
    "Lopez",
    "Moreau",
    "Novak",
    "Olsen",
    "Petit",
    "Quist",
    "Rossi",
    "Silva",
    "Toth",
    "Urban",
    "Vogel",
    "Weber",
    "Zeman",
)
KINDS = ("lamp", "chair", "kettle", "mirror", "carpet", "shelf", "clock", "basket", "vase", "table")
LOOKS = (
    "oak",
    "copper",
    "linen",
    "marble",
    "walnut",
    "enamel",
    "bamboo",
    "velvet",
    "ceramic",
    "iron",
)
CARRIERS = ("post", "express", "courier", "pickup")


def email_address(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)}.{rng.choice(LAST)}{rng.randint(10, 99)}@example.com".lower()


def phone_number(rng: random.Random) -> str:
    return f"555-{rng.randint(1000, 9999)}"
