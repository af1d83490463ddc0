"""Small SVG charts for comparison tests."""

from envgym.modules import load_file
from envgym.spec.environment import load_spec

CHARTS = load_file(load_spec("report").root / "report/charts.py")
LABELS = ["Apples", "Pears", "Plums", "Figs"]
VALUES = [12, 7, 9, 3]


def bars(title="Fruit sold", labels=LABELS, values=VALUES) -> str:
    return CHARTS.bar_chart(title, labels, values)


def svg(inside: str, head: str = 'viewBox="0 0 400 300"') -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f" {head}>{inside}</svg>"
    )
