"""Names of people, places and machines per split; held-out questions use other names.

Uses only the standard library, because it runs in the sandbox.
"""

from __future__ import annotations

FIRST = {
    "train": (
        "Ada",
        "Bruno",
        "Carla",
        "Dimitri",
        "Elin",
        "Farid",
        "Gesa",
        "Henrik",
        "Ilona",
        "Jules",
        "Kaya",
        "Lorenz",
    ),
    "val": ("Maren", "Nestor", "Oona", "Paolo", "Renske", "Stefan"),
    "test": ("Tamsin", "Ulrich", "Vesna", "Wouter", "Xandra", "Yusuf"),
}
LAST = {
    "train": (
        "Abend",
        "Barlow",
        "Corrado",
        "Dekker",
        "Engel",
        "Falk",
        "Grieg",
        "Holub",
        "Iversen",
        "Jansky",
        "Krause",
        "Lindh",
    ),
    "val": ("Marsh", "Nowak", "Orban", "Pires", "Rausch", "Soler"),
    "test": ("Tarkan", "Ulmer", "Varga", "Wexler", "Yilmaz", "Zoller"),
}
SITES = {
    "train": (
        "Ashford",
        "Belmont",
        "Corby",
        "Dunmore",
        "Elstow",
        "Fairlie",
        "Grangemouth",
        "Hexham",
        "Irvine",
        "Jedburgh",
    ),
    "val": ("Kelso", "Lanark", "Moffat", "Nairn", "Oban"),
    "test": ("Peebles", "Renfrew", "Stirling", "Troon", "Wick"),
}
MACHINES = {
    "train": (
        "plotter Vesta",
        "press Juno",
        "lathe Ceres",
        "crane Pallas",
        "kiln Hebe",
        "saw Iris",
        "drill Flora",
        "loom Metis",
    ),
    "val": ("oven Psyche", "mixer Thetis", "pump Fortuna", "lift Massalia"),
    "test": ("scanner Lutetia", "grinder Kalliope", "sander Thalia", "welder Themis"),
}
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
