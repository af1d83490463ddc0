"""Random names of the CRM's people, companies and products.

Names are composed from parts, so that a model cannot memorize them: two million people, 17,700
companies, 920 products. Uses only the standard library, because it runs in the sandbox.
"""

from __future__ import annotations

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    """
    Abel Ada Adele Agnes Aida Aldo Alma Alva Amir Amos Anika Anton Ariel Arlo Arne Asa Astrid Aurel
    Ava Axel Aya Basil Bea Bela Benno Bibi Bjorn Blanca Boris Brenda Bruno Calla Carl Carmen Cato
    Cecil Celia Chana Cleo Clive Conny Cora Cyrus Dagny Dalia Dario Dean Delia Dieter Dina Dirk Dora
    Duncan Edda Edgar Edith Efra Einar Elio Elke Elna Elsa Emil Enid Enzo Erna Esme Esra Ethel Etta
    Eva Ewan Ezra Faye Felix Fenna Fergus Fiona Flora Floyd Frida Fritz Gail Gemma Gerda Gil Gino
    Gita Glen Goran Greta Gus Hal Hanna Hans Hattie Hazel Heidi Helga Henk Hera Hilda Hugo Ian Ida
    Igor Ilse Imre Ines Inga Ira Iris Irma Isak Ivan Ivy Jana Jared Jasper Jelena Jesse Jin Joan
    Joel Jonas Jorge Josef Judd Jules Juno Kaia Kara Karim Karl Katja Keir Kira Klaus Knut Kurt Lana
    Lars Leah Leif Lena Leo Levi Lia Lida Liv Lois Lola Lorna Lotte Lou Luca Lucia Ludo Luz Lydia
    Mabel Mads Maeve Magda Malik Mara Marc Marek Marta Mateo Maud Max Mei Mika Mila Milo Mina Mira
    Moira Mona Moses Myra Nadia Naomi Nell Nera Nico Niels Nils Nina Noah Noor Nora Odile Olaf Olga
    Olin Omar Ora Orla Oscar Otis Otto Owen Pablo Paola Pat Paula Pavel Pearl Pedro Petra Phil Pia
    Pim Piotr Quinn Rada Ralf Rana Raul Reed Rena Rhea Rhys Rika Rita Roald Rolf Romy Rosa Ross
    Ruben Rudi Ruth Sacha Saul Selma Senta Seth Shane Sid Silas Simon Sina Siri Sofia Sonia Stan
    Stella Sven Sybil Tamar Tara Tasha Ted Tess Theo Tilda Timo Tina Tobias Tom Tora Tove Troy Udo
    Ulla Uma Una Ursula Uwe Vada Vera Vida Vince Viola Vito Wanda Werner Wilma Wim Xenia Yael Yara
    York Yuri Yves Zara Zelda Zena Zita Zoe
    """
)

SURNAME_HEADS = _words(
    """
    Ab Al Ander Arm Ash Bar Beck Bell Berg Birch Black Bran Brook Burn Cal Carl Cart Chand Clay Cole
    Cor Crom Dal Dar Den Dun East Eck El Fair Far Fen Finn Flet Fox Gal Gard Gil Gold Gran Green
    Gron Hal Ham Har Hart Haw Hedge Hol Holm Hud Ing Jans Jor Kal Kem Kers Kirk Kling Lam Lang Lar
    Lind Lock Lund Mal Mar Mel Mid Mil Mor Nes Nor Oak Ols Or Pal Park Pem Pet Quill Rad Ran Red
    Ridge Ros Row Rus Sal Sand Sel Shel Sil Stan Sten Stock Sund Tal Tan Thorn Til Tor Under Val Var
    Wal War Web Wes Whit Wil Win Wolf Wood York Zim
    """
)
SURNAME_TAILS = _words(
    """
    aker ard berg bert borne burn by combe cott croft dahl den der dorf feld field ford gard gate
    gren ham hurst ing kins land ley lin low man mann mark mer more ner ness nor quist ridge rop
    rose row sen shaw son stad stein ster stone strom ton vale vall ward well wick win wood worth
    """
)

COMPANY_FIRST = _words(
    """
    Alder Amber Anchor Apex Argon Aspen Atlas Aurora Avon Azure Basalt Bay Beacon Birch Blue Bolt
    Borealis Bright Bronze Cactus Canyon Cedar Cinder Clover Cobalt Comet Copper Coral Crest Crown
    Cypress Delta Dune Eagle Echo Elm Ember Epoch Falcon Fern Fir Flint Forge Garnet Gem Glacier
    Golden Granite Grove Harbor Hazel Helix Heron High Horizon Indigo Iris Iron Island Ivory Jade
    Juniper Karst Kelp Kestrel Lagoon Lark Laurel Lime Lotus Lumen Lunar Lynx Maple Marble Meadow
    Mercury Mesa Mint Misty Moss Nimbus North Nova Oak Ocean Olive Onyx Opal Orbit Orchid Osprey
    Otter Palm Pearl Pebble Pine Polar Poplar Prism Quartz Quill Rapid Raven Red Reef Ridge River
    Robin Rowan Ruby Sable Saffron Sage Sierra Silver Sky Slate Solar Sparrow Spruce Star Stone
    Summit Sun Swift Tall Teal Terra Thistle Tidal Timber Topaz Tulip Umber Union Upland Vale Velvet
    Vertex Violet Vista West White Willow Wind Winter Wren Zenith Zephyr
    """
)
COMPANY_SECOND = _words(
    """
    Bakery Bank Bikes Books Bottling Brewing Bridge Cables Camera Care Cargo Castings Ceramics
    Chemicals Clinic Clothing Coffee Cranes Dairy Dental Design Diagnostics Dyes Electric Energy
    Engines Fabrics Farms Ferries Films Fisheries Foods Freight Furniture Games Gardens Gas Glass
    Grain Health Homes Hosting Hotels Instruments Insurance Kitchens Labs Leather Lighting Lines
    Logistics Lumber Machines Mail Marine Media Metals Mills Mining Mobility Motors Music Optics
    Packaging Paints Paper Parts Pharma Plastics Power Press Printing Pumps Rail Records Research
    Retail Robotics Roofing Rubber Safety Salt Schools Seeds Sensors Shipping Signs Software Solar
    Spices Sports Steel Storage Studios Supply Surveys Systems Tea Telecom Textiles Tiles Tools Toys
    Traders Transit Travel Trucks Tubes Vaccines Valves Ventures Vision Water Windows Wines Wire
    Works Yachts
    """
)
DEAL_KINDS = _words(
    """
    renewal rollout pilot upgrade expansion refit migration trial relaunch retrofit audit training
    """
)

PRODUCT_FIRST = _words(
    """
    Basic Plus Prime Swift Smart Solid Clear Light Heavy Micro Macro Quiet Turbo Ultra Eco Flex Pro
    Core Edge Twin
    """
)
PRODUCT_SECOND = _words(
    """
    Badge Beam Board Cable Cam Cart Clamp Desk Dock Drive Fan Filter Frame Gauge Grip Hub Kit Lamp
    Latch Lens Link Lock Meter Mount Pad Panel Press Probe Pump Rack Relay Router Scale Scanner
    Sensor Shelf Stand Switch Tag Tap Timer Tray Valve Vent Wedge Winch
    """
)

CITIES = _words(
    """
    Ashby Bexton Calder Corran Dalton Elmswick Farrow Glenby Harwick Irvale Jarrow Kelby Linton
    Marbury Norden Oakham Penrose Quarry Redmont Selby Tarrant Upton Verity Walden Yarrow
    """
)

TITLE_RANKS = ("", "", "senior ", "junior ", "chief ", "deputy ", "lead ", "interim ", "regional ")
TITLE_JOBS = (
    "buyer",
    "controller",
    "engineer",
    "planner",
    "analyst",
    "architect",
    "office manager",
    "plant manager",
    "sales manager",
    "store manager",
    "IT manager",
    "project manager",
    "data officer",
    "safety officer",
    "press officer",
    "accountant",
    "auditor",
    "designer",
    "chemist",
    "foreman",
    "librarian",
    "nurse",
    "treasurer",
    "secretary",
    "surveyor",
    "dispatcher",
    "instructor",
)


def person_name(rng: random.Random) -> str:
    """Draw a first name and a surname, such as `Ada Lindquist`."""
    return f"{rng.choice(FIRST)} {rng.choice(SURNAME_HEADS)}{rng.choice(SURNAME_TAILS)}"


def company_name(rng: random.Random) -> str:
    """Draw a name of two words, such as `Harbor Optics`."""
    return f"{rng.choice(COMPANY_FIRST)} {rng.choice(COMPANY_SECOND)}"


def product_name(rng: random.Random) -> str:
    """Draw a name of two words, such as `Turbo Valve`."""
    return f"{rng.choice(PRODUCT_FIRST)} {rng.choice(PRODUCT_SECOND)}"


def job_title(rng: random.Random) -> str:
    """Draw a title of one to three words, such as `deputy plant manager`."""
    return rng.choice(TITLE_RANKS) + rng.choice(TITLE_JOBS)


def phone_number(rng: random.Random) -> str:
    """Draw a number of the range reserved for fiction, such as `555-0134`."""
    return f"555-{rng.randrange(10_000):04d}"


def email_address(name: str, company: str) -> str:
    """Return an address such as `ada.lindquist@harboroptics.example`."""
    return f"{'.'.join(name.lower().split())}@{''.join(company.lower().split())}.example"


def distinct(make, rng: random.Random, count: int) -> list[str]:
    """Return `count` distinct results of `make(rng)`, in the order drawn."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make(rng)] = None
    return list(found)
