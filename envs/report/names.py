"""Kinds of goods and their items. Each kind belongs to one split.

Held-out tasks are therefore about items that training never names. Uses only the standard library,
because it runs in the sandbox.
"""

from __future__ import annotations

ITEMS = {
    "fruit": ("Apples", "Pears", "Plums", "Figs", "Grapes", "Lemons", "Melons", "Cherries"),
    "tools": ("Hammers", "Saws", "Drills", "Pliers", "Files", "Clamps", "Chisels", "Levels"),
    "drinks": ("Tea", "Coffee", "Juice", "Water", "Cider", "Cocoa", "Milk", "Lemonade"),
    "toys": ("Dolls", "Kites", "Puzzles", "Robots", "Blocks", "Marbles", "Trains", "Drums"),
    "shoes": ("Boots", "Clogs", "Loafers", "Sandals", "Slippers", "Sneakers", "Pumps", "Waders"),
    "clothes": ("Shirts", "Coats", "Scarves", "Socks", "Gloves", "Belts", "Hats", "Skirts"),
    "books": ("Novels", "Atlases", "Diaries", "Comics", "Poems", "Guides", "Plays", "Essays"),
    "garden": ("Spades", "Rakes", "Hoses", "Pots", "Seeds", "Shears", "Gnomes", "Trellises"),
    "office": (
        "Pens",
        "Staplers",
        "Folders",
        "Envelopes",
        "Stamps",
        "Rulers",
        "Erasers",
        "Binders",
    ),
}
KINDS = {
    "train": ("fruit", "tools", "drinks", "toys", "shoes"),
    "val": ("clothes", "books"),
    "test": ("garden", "office"),
}
"""Split -> kinds of goods of its tasks."""
COLUMNS = ("sold", "stock", "returned", "ordered")
