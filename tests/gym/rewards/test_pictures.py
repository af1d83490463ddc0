"""Pictures are compared by appearance; a model's SVG can neither crash nor stall the renderer."""

import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.fakes.drawings import CHARTS, LABELS, bars, svg

pytest.importorskip("resvg_py", reason="needs the extra 'images'")

from PIL import Image, ImageChops

from envgym.errors import PrerequisiteError, UsageError
from envgym.rewards.scoring import svg as drawing
from envgym.rewards.scoring.pictures import (
    image_similarity,
    perceptual_similarity,
    ssim,
    svg_similarity,
)
from envgym.rewards.scoring.svg import BadSvg, draw_svg

TRUTH = draw_svg(bars())
BLANK = Image.new("RGB", TRUTH.size, "white")


def shifted(image, x, y):
    moved = Image.new("RGB", image.size, "white")
    moved.paste(image, (x, y))
    return moved


@pytest.mark.parametrize("measure", [ssim, perceptual_similarity, image_similarity])
def test_a_picture_is_just_like_itself(measure):
    assert measure(TRUTH, TRUTH.copy()) == 1.0


def random_chart(seed):
    rng = random.Random(seed)
    draw = (CHARTS.bar_chart, CHARTS.line_chart)[seed % 2]
    count = rng.randint(3, 5)
    return draw_svg(
        draw("Fruit sold", rng.sample([*LABELS, "Melons"], count), rng.sample(range(2, 99), count))
    )


@pytest.mark.parametrize("seed", range(8))
def test_a_chart_that_slipped_by_a_pixel_is_nearly_right_and_an_empty_page_is_not(seed):
    chart = random_chart(seed)
    assert 0.9 < image_similarity(shifted(chart, 1, 0), chart) < 1.0
    assert image_similarity(BLANK, chart) < 0.15
    assert image_similarity(Image.new("RGB", chart.size, "gray"), chart) < 0.3


def test_plain_ssim_is_fooled_by_paper_which_is_why_it_is_not_the_measure():
    assert ssim(BLANK, TRUTH) > 0.75
    assert ssim(ImageChops.invert(TRUTH), TRUTH) < 0.1


def test_the_nearer_the_chart_the_higher_the_score():
    scores = [
        svg_similarity(other, bars())
        for other in (
            bars(labels=["Apples", "Pears", "Plums", "Fibs"]),
            bars(title="Stock"),
            bars(values=[12, 7, 8, 3]),
            bars(values=[12, 7, 9, 12]),
            bars("Rain", list("abcdef"), [3, 6, 2, 8, 9, 1]),
        )
    ]
    assert scores == sorted(scores, reverse=True)
    assert 0.95 < scores[1] < scores[0] < 1.0
    assert scores[-1] < 0.3


def test_colour_counts_where_a_hash_of_greys_sees_none():
    red = draw_svg(bars().replace(CHARTS.COLOR, "#ad3333"))
    assert perceptual_similarity(red, TRUTH) == 1.0
    assert image_similarity(red, TRUTH) < 0.9


def test_hashes_that_differ_in_half_of_their_bits_are_those_of_strangers():
    noise = random.Random(0)
    pixels = [Image.frombytes("L", (64, 64), noise.randbytes(64 * 64)) for _ in range(6)]
    scores = [
        perceptual_similarity(one, other) for one in pixels for other in pixels if one is not other
    ]
    assert max(scores) < 0.5
    assert min(scores) >= 0.0


def test_pictures_of_other_sizes_and_modes_are_put_on_the_same_paper():
    assert image_similarity(TRUTH.resize((800, 600)), TRUTH) > 0.95
    assert image_similarity(TRUTH.convert("RGBA"), TRUTH) == 1.0
    assert (
        image_similarity(Image.new("RGBA", TRUTH.size, (0, 0, 0, 0)), BLANK) == 1.0
    )  # fully transparent: equal to white paper
    assert image_similarity(TRUTH.crop((0, 0, 400, 150)), TRUTH) < 0.7


def test_a_picture_too_small_for_the_windows_of_ssim_is_refused():
    with pytest.raises(UsageError, match="5 x 9 pixels is too small"):
        ssim(Image.new("RGB", (5, 9)), TRUTH)


def test_the_same_look_scores_fully_however_it_is_written():
    plain = svg(
        '<rect x="10" y="20" width="100" height="50" fill="#ff0000"/>'
        '<circle cx="300" cy="100" r="40"/>'
    )
    others = [
        svg(
            '<circle r="40" cy="100" cx="300"/>'
            '<rect fill="red" height="50" width="100" y="20" x="10"/>'
        ),
        svg(
            '<g transform="translate(10 20)" style="fill: rgb(255,0,0)">'
            '<rect width="100" height="50"/></g>'
            '<circle cx="300" cy="100" r="40"/>'
        ),
        svg(
            '<title>x</title><path d="M10 20h100v50H10Z" fill="red"/>'
            '<circle cx="300" cy="100" r="40"/>',
            'width="400" height="300"',
        ),
        svg(
            '<rect x="20" y="40" width="200" height="100" fill="red"/>'
            '<circle cx="600" cy="200" r="80"/>',
            'viewBox="0 0 800 600"',
        ),
    ]
    assert [svg_similarity(other, plain) for other in others] == [1.0] * 4


def test_text_is_drawn_in_the_font_we_bring_whatever_font_is_named():
    text = '<text x="50" y="100" font-size="40" font-family="{}">Figs</text>'
    assert (
        draw_svg(svg(text.format("Comic Sans MS"))).tobytes()
        == draw_svg(svg(text.format("serif"))).tobytes()
    )
    assert image_similarity(draw_svg(svg(text.format("serif"))), BLANK) < 0.5


def test_letters_that_our_font_lacks_are_not_taken_from_the_machine():
    text = '<text x="50" y="100" font-size="40">{}</text>'
    assert draw_svg(svg(text.format("Щ"))).tobytes() == draw_svg(svg(text.format("Ж"))).tobytes()
    assert draw_svg(svg(text.format("ü"))).tobytes() != draw_svg(svg(text.format("u"))).tobytes()


def test_a_font_that_was_tidied_away_is_laid_down_again():
    first = drawing._font_file()
    first.unlink()
    assert draw_svg(bars()).tobytes() == TRUTH.tobytes()
    assert drawing._font_file() != first


BILLION = '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>' + svg("<text>&b;</text>")
HOSTILE = {
    "nothing": "",
    "words": "Here is your chart!",
    "half": bars()[:200],
    "no svg": "<html></html>",
    "no size": svg("", ""),
    "no numbers": svg("", 'viewBox="0 0 a b"'),
    "nan": svg("", 'viewBox="0 0 nan 3"'),
    "endless": svg("", 'width="1e309" height="5"'),
    "huge": svg("", 'width="100000000" height="100000000"'),
    "flat": svg("", 'width="100" height="0"'),
    "entities": BILLION,
    "file by entity": '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    + svg("<text>&x;</text>"),
    "script": svg("<script>while(true){}</script>"),
    "image": svg('<image href="file:///etc/passwd" width="9" height="9"/>'),
    "use": svg('<g id="a"/><use xlink:href="#a"/>'),
    "stylesheet": svg("<style>@import url(http://127.0.0.1/)</style>"),
    "filter": svg('<filter id="f"><feGaussianBlur stdDeviation="100000"/></filter>'),
    "foreign": svg('<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">x</p></foreignObject>'),
    "many": svg("<rect/>" * (drawing.MOST_ELEMENTS + 1)),
    "deep": svg("<g>" * 200 + "</g>" * 200),
    "long": svg(f'<path d="{"M0 0" * 20_000}"/>'),
    "wordy": svg(f"<text>{'x' * 6_000}</text>"),
    "no characters": svg("<text>\x00</text>"),
    "half a character": svg("<text>\ud800</text>"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_svg_that_is_none_or_means_harm_scores_nothing_and_raises_nothing(name):
    with pytest.raises(BadSvg):
        draw_svg(HOSTILE[name])
    assert svg_similarity(HOSTILE[name], bars()) == 0.0


@pytest.mark.parametrize("name", HOSTILE)
def test_a_truth_that_cannot_be_drawn_is_the_mistake_of_whoever_wrote_it(name):
    with pytest.raises(UsageError, match="the true image cannot be rendered: "):
        svg_similarity(bars(), HOSTILE[name])


@pytest.mark.parametrize(
    "inside",
    [
        '<rect width="nan" height="inf" x="1e400"/><path d="M nan L x"/><circle r="-1"/>',
        '<text font-size="1e30" letter-spacing="1e30">abc</text>',
        '<g transform="scale(1e20) skewX(90) matrix(0 0 0 0 0 0)"><rect width="4" height="3"/></g>',
        '<polyline points="0,0 400,300" stroke="red" stroke-width="1e20" stroke-dasharray="1e-9"/>',
        '<svg width="1e9" height="1e9" viewBox="0 0 1e-9 1e-9"><rect width="1" height="1"/></svg>',
        '<rect fill="url(http://127.0.0.1/x)" onclick="alert(1)" filter="url(#f)"'
        ' style="fill:;:;;x" width="9" height="9"/>',
    ],
)
def test_wild_numbers_are_drawn_or_left_out_but_never_raise(inside):
    assert draw_svg(svg(inside)).size == (400, 300)


def test_a_picture_at_which_the_drawing_library_panics_raises_nothing():
    endless = svg('<polyline points="0,0 1e30,1e30 -1e30,5" stroke="red" stroke-width="1e20"/>')
    assert (
        svg_similarity(endless, bars()) < 0.3
    )  # resvg 0.5 panics, which does not subclass Exception in Python


def test_drawing_asks_nobody_for_anything():
    asked = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    http = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{http.server_port}/x"
    draw_svg(
        f'<?xml-stylesheet href="{url}"?>'
        + svg(
            f'<rect xlink:href="{url}" fill="url({url})" style="mask:url({url})"'
            ' width="9" height="9"/>'
        )
    )
    svg_similarity(svg(f'<image href="{url}" width="9" height="9"/>'), bars())
    http.shutdown()
    http.server_close()
    thread.join()
    assert asked == []


def test_another_measure_takes_the_place_of_ours():
    def red_alike(picture, truth):
        one, other = (
            image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))[0]
            for image in (picture, truth)
        )
        return 1 - abs(one - other) / 255

    assert svg_similarity(
        svg('<rect width="400" height="300" fill="#330000"/>'), svg(""), similarity=red_alike
    ) == pytest.approx(0.2)
    assert svg_similarity("no svg", bars(), similarity=red_alike) == 0.0


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_a_measure_that_gives_no_share_is_an_error(value):
    with pytest.raises(UsageError, match="must be from 0 to 1"):
        svg_similarity(bars(), bars(), similarity=lambda picture, truth: value)


@pytest.mark.parametrize(
    "library", ["resvg_py", "defusedxml.ElementTree", "skimage.metrics", "imagehash"]
)
def test_a_library_that_is_missing_is_named_with_the_remedy(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PrerequisiteError, match=r"needs .*pip install 'envgym\[images\]'"):
        image_similarity(draw_svg(bars()), shifted(TRUTH, 1, 1))
