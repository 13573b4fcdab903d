"""The picture of a run as SVG, drawn here: what is acknowledged and on its way, memory, CPU, latencies.

Text and lines alone, so that it can be read in a browser and compared as text. Functions of values.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from commands.benching.figures import BOUNDS_MS, Quantiles, WholeWay

_WIDTH: Final = 860
_LEFT, _RIGHT = 70, 170
_HEIGHT: Final = 150
_COLOURS: Final = (
    "#1f6f8b",
    "#d1495b",
    "#66a182",
    "#edae49",
    "#8d6a9f",
    "#2e4057",
    "#b26e63",
    "#6c757d",
    "#00798c",
)


class Line(NamedTuple):
    """One series of a panel."""

    name: str
    points: Sequence[tuple[float, float]]


def draw(run: WholeWay, title: str) -> str:
    """Return the SVG of a run."""
    panels = (
        _lines("acknowledged a second, and on their way", [_rate(run), _asked(run), _in_flight(run)]),
        _lines("memory, MB", _memory(run)),
        _bars(
            "CPU ms an instance (compiling apart)",
            [(name, used.cpu_ms - used.compile_ms) for name, used in run.programs.items()]
            + [("sender", run.sender_cpu_ms)],
        ),
        _histogram("first byte to acknowledged", run.ack),
        _histogram("acknowledged to clean event", run.clean),
    )
    body, top = [], 46
    for panel in panels:
        body.append(f'<g transform="translate(0,{top})">{panel}</g>')
        top += _HEIGHT + 54
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif"'
        f' font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


def _rate(run: WholeWay) -> Line:
    pairs = zip(run.samples, run.samples[1:], strict=False)
    return Line("acknowledged/s", [(b.at, (b.sent - a.sent) / max(1e-9, b.at - a.at)) for a, b in pairs])


def _asked(run: WholeWay) -> Line:
    return Line("asked for/s", [(0.0, run.rate), (run.seconds, run.rate)])


def _in_flight(run: WholeWay) -> Line:
    return Line("on their way", [(s.at, float(s.in_flight)) for s in run.samples])


def _memory(run: WholeWay) -> list[Line]:
    names = sorted({name for s in run.samples for name in s.memory})
    return [Line(name, [(s.at, s.memory.get(name, 0) / 1e6) for s in run.samples]) for name in names]


def _lines(title: str, lines: Iterable[Line]) -> str:
    drawn = [line for line in lines if line.points]
    right = max((x for line in drawn for x, _ in line.points), default=1.0) or 1.0
    top = max((y for line in drawn for _, y in line.points), default=1.0) or 1.0
    parts = [_frame(title, top, f"{right:.0f} s")]
    for n, line in enumerate(drawn):
        colour = _COLOURS[n % len(_COLOURS)]
        points = " ".join(f"{_x(x / right):.1f},{_y(y / top):.1f}" for x, y in line.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_legend(n, line.name, colour))
    return "".join(parts)


def _bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    top = max((value for _, value in rows), default=1.0) or 1.0
    step = _HEIGHT / max(1, len(rows))
    parts = [f'<text x="{_LEFT}" y="-8">{escape(title)}</text>']
    for n, (name, value) in enumerate(rows):
        y, width = n * step, (_WIDTH - _LEFT - _RIGHT) * max(0.0, value) / top
        parts.append(
            f'<rect x="{_LEFT}" y="{y:.1f}" width="{width:.1f}" height="{step * 0.7:.1f}" fill="#1f6f8b"/>'
        )
        parts.append(
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + step * 0.6:.1f}">{escape(name)} {value:.2f}</text>'
        )
    return "".join(parts)


def _histogram(title: str, found: Quantiles) -> str:
    said = f"{title}: p50 {found.p50_ms:.0f}, p99 {found.p99_ms:.0f}, most {found.max_ms:.0f} ms"
    top = max(found.bars, default=0) or 1
    step = (_WIDTH - _LEFT - _RIGHT) / len(found.bars)
    parts = [_frame(said, float(top), "")]
    for n, count in enumerate(found.bars):
        height = _HEIGHT * count / top
        x = _LEFT + n * step
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{_HEIGHT - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}" fill="#66a182"/>'
        )
        label = f"{BOUNDS_MS[n]:.0f}" if n < len(BOUNDS_MS) else "more"
        parts.append(f'<text x="{x + step / 2:.1f}" y="{_HEIGHT + 14}" text-anchor="middle">{label}</text>')
    return "".join(parts)


def _frame(title: str, top: float, right: str) -> str:
    end = _WIDTH - _RIGHT
    return (
        f'<text x="{_LEFT}" y="-8">{escape(title)}</text>'
        f'<path d="M{_LEFT},0 V{_HEIGHT} H{end}" fill="none" stroke="#888"/>'
        f'<text x="{_LEFT - 6}" y="10" text-anchor="end">{top:.0f}</text>'
        f'<text x="{_LEFT - 6}" y="{_HEIGHT}" text-anchor="end">0</text>'
        f'<text x="{end}" y="{_HEIGHT + 14}" text-anchor="end">{escape(right)}</text>'
    )


def _legend(n: int, name: str, colour: str) -> str:
    return f'<text x="{_WIDTH - _RIGHT + 10}" y="{10 + 15 * n}" fill="{colour}">{escape(name)}</text>'


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share


def _y(share: float) -> float:
    return _HEIGHT * (1 - share)
