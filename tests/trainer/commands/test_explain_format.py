"""Numbers and long words in the tables of `envgym explain`."""

from envgym.terms import PENALTY
from envgym_trainer.algorithms import attribution as breakdown
from envgym_trainer.commands.explain import shortened, summed
from envgym_trainer.run.explain import OTHERS


def test_every_name_beside_the_parts_has_its_rule():
    assert set(OTHERS) == {
        PENALTY,
        breakdown.REST,
        breakdown.REWARD,
        breakdown.OVERLONG,
        breakdown.MISTAKES,
    }


def test_thirds_are_printed_so_that_they_make_a_whole():
    assert summed([1 / 3] * 3) == ["0.3334", "0.3333", "0.3333", "1.0000"]
    assert summed([-0.25, None, 0.75], sign=True) == ["-0.2500", "-", "+0.7500", "+0.5000"]
    assert summed([None]) == ["-", "-"]


def test_long_words_keep_their_end():
    assert shortened("so\n the answer is 42", limit=9) == "...wer is 42"
