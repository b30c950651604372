"""Lines in an SVG file, and no more than that."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 400, 70, 50, 40, 150
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")

Points = list[tuple[float, float]]


def write(path: Path, title: str, x_name: str, y_name: str, lines: dict[str, Points]) -> None:
    """Draw each line through its points, from zero up; the x values are evenly spaced."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    top = max(y for points in lines.values() for _, y in points) * 1.1 or 1.0
    parts = [*_frame(title, x_name, y_name), *_ticks(xs, top)]
    for number, (name, points) in enumerate(lines.items()):
        parts += _line(number, name, [(_x(xs, x), _y(top, y)) for x, y in points])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12">'
    path.write_text("\n".join([f"{head} {style}", *parts, "</svg>"]) + "\n")


def _x(xs: list[float], x: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (xs.index(x) + 0.5) / len(xs)


def _y(top: float, y: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y / top


def _frame(title: str, x_name: str, y_name: str) -> list[str]:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(middle, 20, title, size=14),
        _text(middle, HEIGHT - 12, x_name),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">{_text(16, HEIGHT / 2, y_name)}</g>',
    ]


def _ticks(xs: list[float], top: float) -> list[str]:
    parts = [_text(_x(xs, x), HEIGHT - BOTTOM + 18, f"{x:g}") for x in xs]
    for step in range(6):
        value = top * step / 5
        y = _y(top, value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:,.0f}", anchor="end"))
    return parts


def _line(number: int, name: str, places: Points) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    y = TOP + 18 * number + 10
    swatch = f'<path d="M{WIDTH - RIGHT + 10} {y - 4}h16" stroke="{colour}" stroke-width="2"/>'
    label = _text(WIDTH - RIGHT + 30, y, name, anchor="start")
    line = f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [line, *dots, swatch, label]


def _text(x: float, y: float, words: str, *, anchor: str = "middle", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{escape(words)}</text>"
