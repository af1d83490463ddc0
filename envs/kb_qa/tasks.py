"""Questions about the handbook: one hop (L0), two hops (L1), unanswerable ones of both kinds (L2).

Unanswerable questions are worded like the others; only the section, which must be cited, shows that
the fact is missing. Each level holds out one template; people, places and wording differ between
splits.
"""

from __future__ import annotations

import wording

from envgym import Draw, Task, ToolCall, template

UNSAID = "Not in the handbook"


@template(level="L0")
def person_fact(draw: Draw) -> Task:
    return _one_hop(draw, "person", said=True)


@template(level="L0")
def office_fact(draw: Draw) -> Task:
    return _one_hop(draw, "office", said=True)


@template(level="L0", splits=("test",))
def machine_fact(draw: Draw) -> Task:
    return _one_hop(draw, "machine", said=True)


@template(level="L1")
def fact_of_runner(draw: Draw) -> Task:
    return _two_hops(draw, "runner", wording.RUNNER, said=True)


@template(level="L1")
def fact_of_keeper(draw: Draw) -> Task:
    return _two_hops(draw, "keeper", wording.KEEPER, said=True)


@template(level="L1", splits=("test",))
def fact_of_base(draw: Draw) -> Task:
    return _two_hops(draw, "base", wording.BASE, said=True)


@template(level="L2")
def person_gap(draw: Draw) -> Task:
    return _one_hop(draw, "person", said=False)


@template(level="L2")
def office_gap(draw: Draw) -> Task:
    return _one_hop(draw, "office", said=False)


@template(level="L2", splits=("test",))
def machine_gap(draw: Draw) -> Task:
    return _one_hop(draw, "machine", said=False)


@template(level="L2")
def gap_of_runner(draw: Draw) -> Task:
    return _two_hops(draw, "runner", wording.RUNNER, said=False)


def _one_hop(draw: Draw, kind: str, *, said: bool) -> Task:
    """Ask about the subject of a section."""
    ids = draw.rows(
        "SELECT DISTINCT section FROM facts WHERE kind = ? AND split = ? ORDER BY section",
        kind,
        draw.split,
    )
    section = draw.rng.choice(ids)["section"]
    return _question(draw, [section], _spoken(draw, section), said)


def _two_hops(draw: Draw, relation: str, phrasings: tuple[str, ...], *, said: bool) -> Task:
    """Ask about the subject of a section that another section links to."""
    query = "SELECT section, target FROM links WHERE relation = ? AND split = ? ORDER BY section"
    link = draw.row(query, relation, draw.split)
    who = draw.wording(phrasings).format(of=_spoken(draw, link["section"]))
    return _question(draw, [link["section"], link["target"]], who, said)


def _question(draw: Draw, way: list[str], who: str, said: bool) -> Task:
    """Ask about the last of some sections, which must all be searched, opened and cited."""
    wanted = "NOT NULL" if said else "NULL"
    fact = draw.row(
        f"SELECT attribute, value FROM facts WHERE section = ? AND value IS {wanted} ORDER BY "
        "attribute",
        way[-1],
    )
    prompt = wording.fill(draw.wording(wording.ASKS), what=fact["attribute"], who=who)
    oracle = [call for section in way for call in _find(draw, section)]
    cited = " ".join(f"[{section}]" for section in way)
    answers = _golds(fact["value"]) if said else []
    return draw.task(
        prompt=prompt,
        oracle=oracle,
        final=f"{fact['value'] if said else UNSAID} {cited}",
        facts=answers[:1],
        answers=answers,
        sources=way,
    )


def _find(draw: Draw, section: str) -> list[ToolCall]:
    return [
        ToolCall("search", {"query": _title(draw, section)}),
        ToolCall("open_section", {"section": section}),
    ]


def _golds(value: str) -> list[str]:
    """Return the value as it is stated, and without its unit: `38 kg` and `38`."""
    number, _, unit = value.partition(" ")
    return [value, number] if unit else [value]


def _title(draw: Draw, section: str) -> str:
    return draw.row("SELECT title FROM sections WHERE id = ?", section)["title"]


def _spoken(draw: Draw, section: str) -> str:
    """Return the name of a subject within a sentence, such as `the Corby office`."""
    title = _title(draw, section)
    kind = draw.row("SELECT kind FROM facts WHERE section = ?", section)["kind"]
    return {
        "person": title,
        "office": f"the {title}",
        "machine": f"the {title[:1].lower()}{title[1:]}",
    }[kind]
