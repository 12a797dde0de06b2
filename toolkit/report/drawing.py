"""Plots as inline SVG: one line an endpoint, points in a plane, bars of a histogram; every plot says its values in text as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH = 360
"""Width of a drawing in its own units; the page shows it at about as many pixels, on a phone too."""
EDGE = 14
LINE, TOP, LANE = 46, 8, 10
"""Height of an endpoint's line, room above the first, and from one lane to the next."""
PLANE = 310
"""Height of a plane of points."""
LEFT, RIGHT, UPPER, LOWER = 46, WIDTH - EDGE, 26, PLANE - 42
"""Edges of what is drawn in it."""

Element = ElementTree.Element
Words = Callable[[float], str]


@dataclass(frozen=True)
class Span:
    """One mark on a line: a thin rule from low to high, a box where there is one, and the point itself."""

    kind: str
    """`before` or `after`, which is its colour and its lane."""
    low: float
    point: float
    high: float
    box: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """An endpoint: its name on the left, its value in words on the right, and the marks below."""

    label: str
    value: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Point:
    """A named point of a plane; `value` is its words."""

    label: str
    x: float
    y: float
    value: str
    high: float
    """Upper end of the rule that stands on the point."""
    best: bool = False
    """Whether it is the one to take."""


@dataclass(frozen=True)
class Axes:
    """The names of a plane's axes, and where x must end."""

    x: str
    y: str
    limit: float | None = None


def lines(name: str, title: str, rows: Sequence[Line], scale: tuple[float, Words]) -> Markup:
    """Draw one line an endpoint on a scale from 0 to its end; `scale` is that end and how a number on it is written."""
    end, words = scale
    bottom = TOP + LINE * len(rows)
    drawing = _drawing(name, title, [f"{row.label}: {row.value}" for row in rows], bottom + 22)
    for tick in ticks(end):
        _tick(drawing, EDGE + (WIDTH - 2 * EDGE) * tick / end, bottom, words(tick))
    for number, row in enumerate(rows):
        _line(drawing, row, TOP + LINE * number, end)
    return _markup(drawing)


def _line(drawing: Element, row: Line, top: float, end: float) -> None:
    _text(drawing, (EDGE, top + 13), row.label, "name")
    _text(drawing, (WIDTH - EDGE, top + 13), row.value, "value", "end")
    for span in row.spans:
        lane = top + 23 + (LANE if span.kind == "after" else 0)
        low, point, high = (EDGE + (WIDTH - 2 * EDGE) * min(value, end) / end for value in (span.low, span.point, span.high))
        _add(drawing, "line", span.kind, x1=low, y1=lane, x2=high, y2=lane)
        if span.box:
            left, right = (EDGE + (WIDTH - 2 * EDGE) * min(value, end) / end for value in span.box)
            _add(drawing, "rect", span.kind, x=left, y=lane - 3.5, width=max(right - left, 1.5), height=7, rx=1.5)
        _add(drawing, "circle", span.kind, cx=point, cy=lane, r=3.6)


def _tick(drawing: Element, x: float, bottom: float, words: str) -> None:
    _add(drawing, "line", "grid", x1=x, y1=TOP, x2=x, y2=bottom)
    anchor = "start" if x < EDGE + 1 else "end" if x > WIDTH - EDGE - 12 else "middle"
    _text(drawing, (x, bottom + 15), words, "tick", anchor)


def plane(name: str, title: str, points: Sequence[Point], axes: Axes) -> Markup:
    """Draw points over a linear x and a logarithmic y; a point whose y is 0 lies on the lower edge."""
    end = max(*(point.x for point in points), axes.limit or 0) * 1.05
    decades = _decades([value for point in points for value in (point.y, point.high) if value > 0])
    drawing = _drawing(name, title, [f"{point.label}: {point.value}" for point in points], PLANE)
    _text(drawing, (EDGE, 13), axes.y, "tick")
    _text(drawing, (RIGHT, PLANE - 6), axes.x, "tick", "end")
    for tick in ticks(end):
        _add(drawing, "line", "grid", x1=_across(tick, end), y1=UPPER, x2=_across(tick, end), y2=LOWER)
        _text(drawing, (_across(tick, end), LOWER + 15), f"{tick:g}", "tick", "middle")
    for decade in range(decades[0], decades[1] + 1):
        y = _height(10.0**decade, decades)
        _add(drawing, "line", "grid", x1=LEFT, y1=y, x2=RIGHT, y2=y)
        _text(drawing, (LEFT - 5, y + 4), f"{10.0**decade:g}".replace("e-0", "e-"), "tick", "end")
    _add(drawing, "line", "axis", x1=LEFT, y1=LOWER, x2=RIGHT, y2=LOWER)
    _text(drawing, (LEFT - 5, LOWER + 4), "0", "tick", "end")
    if axes.limit:
        _add(drawing, "line", "limit", x1=_across(axes.limit, end), y1=UPPER, x2=_across(axes.limit, end), y2=LOWER)
    for point in points:
        _point(drawing, point, _across(point.x, end), decades)
    return _markup(drawing)


def _point(drawing: Element, point: Point, x: float, decades: tuple[int, int]) -> None:
    y, high = _height(point.y, decades), _height(point.high, decades)
    if high < y:
        _add(drawing, "line", "after", x1=x, y1=y, x2=x, y2=high)
    _add(drawing, "circle", "after", cx=x, cy=y, r=4.5)
    if point.best:
        _add(drawing, "circle", "best", cx=x, cy=y, r=8)
    late = x > LEFT + 60  # there is room for a name
    _text(drawing, (x - 10 if late else x + 10, y - 6), point.label, "name", "end" if late else "start")


def _across(value: float, end: float) -> float:
    """Return x on paper."""
    return LEFT + (RIGHT - LEFT) * value / end


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around positive values; one decade where there are none."""
    if not values:
        return -3, -2
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _height(value: float, decades: tuple[int, int]) -> float:
    """Return y on paper: 0 at the lower edge, the lowest decade a step above it."""
    low, high = decades
    step = (LOWER - UPPER) / (high - low + 1)
    return LOWER if value <= 0 else LOWER - step * (1 + math.log10(value) - low)


def ticks(end: float) -> list[float]:
    """Return four to seven round numbers from 0 to `end`, steps of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(end))
    step = next(size for part in (0.2, 0.25, 0.5, 1.0, 2.0) if end / (size := part * power) <= 6.01)
    return [round(step * number, 10) for number in range(int(end / step + 1e-9) + 1)]


def _drawing(name: str, title: str, said: Sequence[str], height: float) -> Element:
    names = {"aria-labelledby": f"{name}-title {name}-values"}
    drawing = ElementTree.Element("svg", {"class": "plot", "viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", **names})
    ElementTree.SubElement(drawing, "title", {"id": f"{name}-title"}).text = title
    ElementTree.SubElement(drawing, "desc", {"id": f"{name}-values"}).text = "; ".join(said)
    return drawing


def _add(drawing: Element, tag: str, kind: str, **numbers: float) -> None:
    ElementTree.SubElement(drawing, tag, {"class": kind, **{name: f"{number:.4g}" for name, number in numbers.items()}})


def _text(drawing: Element, place: tuple[float, float], words: str, kind: str, anchor: str = "start") -> None:
    where = {"x": f"{place[0]:.4g}", "y": f"{place[1]:.4g}", "text-anchor": anchor}
    ElementTree.SubElement(drawing, "text", {"class": kind, **where}).text = words


def _markup(drawing: Element) -> Markup:
    return Markup(ElementTree.tostring(drawing, encoding="unicode", short_empty_elements=False))


BARS = 210
"""Height of a histogram."""


@dataclass(frozen=True)
class Bar:
    """How many values lie above `low`, up to `high`."""

    low: float
    high: float
    count: int


def bars(name: str, title: str, found: Sequence[Bar], axes: tuple[str, str], limit: tuple[float, str] | None = None) -> Markup:
    """Draw a histogram; bars beyond the limit, a place on x and its name, are of the other kind. `axes` are the names of x and y."""
    longest, top = max(bar.high for bar in found), max(bar.count for bar in found)
    near = limit is not None and limit[0] <= 2 * longest
    end = max(longest, limit[0]) if limit and near else longest  # a limit far away would squeeze the bars into a corner
    left, right, upper, bottom = 46, WIDTH - EDGE, 26, BARS - 42
    drawing = _drawing(name, title, [f"above {bar.low:g} up to {bar.high:g}: {bar.count}" for bar in found if bar.count], BARS)
    _text(drawing, (EDGE, 13), axes[1], "tick")
    _text(drawing, (right, BARS - 6), axes[0], "tick", "end")
    for tick in (tick for tick in ticks(top) if tick == int(tick)):
        y = bottom - (bottom - upper) * tick / top
        _add(drawing, "line", "grid", x1=left, y1=y, x2=right, y2=y)
        _text(drawing, (left - 5, y + 4), f"{tick:g}", "tick", "end")
    for tick in ticks(end):
        _text(drawing, (left + (right - left) * tick / end, bottom + 15), f"{tick:g}", "tick", "middle")
    for bar in found:
        x, width = left + (right - left) * bar.low / end, (right - left) * (bar.high - bar.low) / end
        height = (bottom - upper) * bar.count / top
        kind = "beyond" if limit and bar.low >= limit[0] else "bar"
        _add(drawing, "rect", kind, x=x, y=bottom - height, width=max(width - 0.6, 0.6), height=height)
    if limit:
        _limit(drawing, left + (right - left) * limit[0] / end if near else None, (upper - 8, bottom), limit[1])
    return _markup(drawing)


def _limit(drawing: Element, x: float | None, edges: tuple[float, float], words: str) -> None:
    """Draw a limit as an upright line, or tell it at the right edge where it lies beyond the drawing."""
    if x is None:
        _text(drawing, (WIDTH - EDGE, edges[0] + 6), f"{words} →", "tick", "end")
        return
    _add(drawing, "line", "limit", x1=x, y1=edges[0], x2=x, y2=edges[1])
    late = x > WIDTH / 2
    _text(drawing, (x - 4 if late else x + 4, edges[0] + 6), words, "tick", "end" if late else "start")
