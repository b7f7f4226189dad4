"""Draws the Mermaid diagrams of the pages as SVG, without a browser and without a network.

Only the part of Mermaid's language that the pages use is known: sequence diagrams with messages
and notes, and state diagrams without nesting. Everything else raises DiagramError. The SVG takes
its colours from the page, so it suits the light and the dark scheme.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

# Of the font at its size: enough for every letter that is not unusually wide.
_CHARACTER_WIDTH = 7.4
_LINE_HEIGHT = 17
_MARGIN = 16
_BOX_HEIGHT = 34
_BOX_PADDING = 12

_PARTICIPANT = re.compile(r"participant (?P<id>\w+)(?: as (?P<label>.+))?")
_MESSAGE = re.compile(r"(?P<source>\w+)(?P<arrow>--?(?:>>|x))(?P<target>\w+): (?P<text>.+)")
_NOTE = re.compile(r"Note over (?P<first>\w+)(?:,(?P<last>\w+))?: (?P<text>.+)")
_TRANSITION = re.compile(r"(?P<source>\[\*\]|\w+) --> (?P<target>\[\*\]|\w+)(?:: (?P<text>.+))?")
_STATE = re.compile(r"(?P<id>\w+): (?P<text>.+)")


class DiagramError(Exception):
    """A diagram holds a line that cannot be drawn."""


def draw(source: str) -> str:
    """Return the SVG of a Mermaid diagram. Raises DiagramError."""
    kind, *lines = [line.strip() for line in source.splitlines() if line.strip()]
    if kind == "sequenceDiagram":
        return _draw_sequence(lines)
    if kind == "stateDiagram-v2":
        return _draw_states(lines)
    raise DiagramError(f"unknown kind of diagram: {kind}")


# --- drawing --------------------------------------------------------------


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    # No empty lines: Markdown would end the block of HTML there.
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(title)}">\n{body}\n</svg>'
    )


def _text(x: float, y: float, lines: list[str], *, anchor: str = "middle", kind: str = "label") -> str:
    rows = "".join(
        f'<tspan x="{x:.1f}" y="{y + row * _LINE_HEIGHT:.1f}">{escape(line)}</tspan>'
        for row, line in enumerate(lines)
    )
    return f'<text class="{kind}" text-anchor="{anchor}">{rows}</text>'


def _box(x: float, y: float, width: float, height: float, *, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"/>'


def _line(x1: float, y1: float, x2: float, y2: float, *, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _head(x: float, y: float, direction: int) -> str:
    """Return an arrowhead whose tip is at (x, y), pointing right (1) or left (-1)."""
    back = x - direction * 9
    return f'<path class="head" d="M{x:.1f} {y:.1f} L{back:.1f} {y - 4.5:.1f} L{back:.1f} {y + 4.5:.1f} Z"/>'


def _cross(x: float, y: float) -> str:
    return f'<path class="lost" d="M{x - 5:.1f} {y - 5:.1f} l10 10 m0 -10 l-10 10"/>'


def _width(text: str) -> float:
    return len(text) * _CHARACTER_WIDTH


# --- sequence diagrams ----------------------------------------------------


@dataclass(frozen=True)
class _Message:
    source: int
    target: int
    text: str
    dashed: bool
    lost: bool


@dataclass(frozen=True)
class _Note:
    first: int
    last: int
    text: str


@dataclass
class _Sequence:
    labels: list[str] = field(default_factory=list)
    steps: list[_Message | _Note] = field(default_factory=list)


def _draw_sequence(lines: list[str]) -> str:
    diagram = _parse_sequence(lines)
    columns = _columns(diagram)
    right = columns[-1] + _width(diagram.labels[-1]) / 2 + _BOX_PADDING + _MARGIN
    parts: list[str] = []
    y = float(_MARGIN + _BOX_HEIGHT)
    for step in diagram.steps:
        drawn, height = _draw_step(step, columns, y)
        parts += drawn
        y += height
    bottom = y + 14
    heads = list(_heads(diagram.labels, columns, bottom))
    return _svg(right, bottom + _MARGIN / 2, "Sequence diagram", [*heads, *parts])


def _parse_sequence(lines: list[str]) -> _Sequence:
    diagram, index = _Sequence(), dict[str, int]()
    for line in lines:
        try:
            if found := _PARTICIPANT.fullmatch(line):
                index[found["id"]] = len(diagram.labels)
                diagram.labels.append(found["label"] or found["id"])
            elif found := _NOTE.fullmatch(line):
                first = index[found["first"]]
                diagram.steps.append(_Note(first, index[found["last"] or found["first"]], found["text"]))
            elif found := _MESSAGE.fullmatch(line):
                ends = index[found["source"]], index[found["target"]]
                arrow = found["arrow"]
                diagram.steps.append(_Message(*ends, found["text"], arrow[:2] == "--", arrow[-1] == "x"))
            else:
                raise DiagramError(f"cannot be drawn: {line}")
        except KeyError as error:
            raise DiagramError(f"unknown participant {error} in: {line}") from error
    return diagram


def _columns(diagram: _Sequence) -> list[float]:
    """Return the middle of each column: far enough apart for the texts between them."""
    labels = diagram.labels
    halves = [_width(label) / 2 + _BOX_PADDING for label in labels]
    gaps = [halves[number] + halves[number + 1] + 20 for number in range(len(labels) - 1)]
    first = _MARGIN + halves[0]
    for step in diagram.steps:
        low, high, needed = _extent(step)
        if low == high == 0:
            first = max(first, _MARGIN + needed / 2)
        elif high > low:
            missing = needed - sum(gaps[low:high])
            gaps[low:high] = [gap + max(0.0, missing) / (high - low) for gap in gaps[low:high]]
    columns = [first]
    for gap in gaps:
        columns.append(columns[-1] + gap)
    return columns


def _extent(step: _Message | _Note) -> tuple[int, int, float]:
    """Return the first and the last column of a step, and the room that it needs between them."""
    if isinstance(step, _Message):
        return min(step.source, step.target), max(step.source, step.target), _width(step.text) + 30
    return step.first, step.last, _width(step.text) + 2 * _BOX_PADDING - (40 if step.last > step.first else 0)


def _heads(labels: list[str], columns: list[float], bottom: float) -> Iterator[str]:
    for label, x in zip(labels, columns, strict=True):
        width = _width(label) + 2 * _BOX_PADDING
        yield _line(x, _MARGIN / 2 + _BOX_HEIGHT, x, bottom, kind="life")
        yield _box(x - width / 2, _MARGIN / 2, width, _BOX_HEIGHT, kind="actor")
        yield _text(x, _MARGIN / 2 + _BOX_HEIGHT / 2 + 5, [label], kind="name")


def _draw_step(step: _Message | _Note, columns: list[float], y: float) -> tuple[list[str], float]:
    if isinstance(step, _Note):
        left, right = columns[step.first], columns[step.last]
        width = max(_width(step.text) + 2 * _BOX_PADDING, right - left + 40)
        middle = (left + right) / 2
        box = _box(middle - width / 2, y + 10, width, 28, kind="note")
        return [box, _text(middle, y + 29, [step.text])], 44
    start, end = columns[step.source], columns[step.target]
    direction = 1 if end > start else -1
    line_y = y + 34
    if step.lost:
        end -= direction * abs(end - start) * 0.25
    parts = [
        _text((columns[step.source] + columns[step.target]) / 2, line_y - 8, [step.text]),
        _line(start, line_y, end, line_y, kind="dashed" if step.dashed else "message"),
        _cross(end, line_y) if step.lost else _head(end, line_y, direction),
    ]
    return parts, 40


# --- state diagrams -------------------------------------------------------

_EDGE = "[*]"


def _draw_states(lines: list[str]) -> str:
    texts, transitions = _parse_states(lines)
    ranks = _ranks(transitions)
    by_rank = [[state for state in ranks if ranks[state] == rank] for rank in range(max(ranks.values()) + 1)]
    widths = [
        max(_width(texts.get(state, state)) for state in states) + 2 * _BOX_PADDING for states in by_rank
    ]
    gaps = [
        max((_width(text) for (source, _), all_texts in transitions.items() if ranks.get(source) == rank
             for text in all_texts), default=0) + 40
        for rank in range(len(by_rank))
    ]  # fmt: skip
    row_height = 2 * _BOX_HEIGHT + _LINE_HEIGHT * max(len(each) for each in transitions.values())
    height = row_height * max(len(states) for states in by_rank)
    places: dict[str, tuple[float, float, float]] = {}
    x = float(_MARGIN + 30)
    for states, width, gap in zip(by_rank, widths, gaps, strict=True):
        for row, state in enumerate(states):
            middle = height * (row + 0.5) / len(states) + _MARGIN / 2
            places[state] = (x, middle, width)
        x += width + gap
    parts: list[str] = []
    for (source, target), labels in transitions.items():
        parts += _draw_transition(source, target, labels, places)
    for state, (left, middle, width) in places.items():
        parts.append(_box(left, middle - _BOX_HEIGHT / 2, width, _BOX_HEIGHT, kind="actor"))
        parts.append(_text(left + width / 2, middle + 5, [texts.get(state, state)], kind="name"))
    return _svg(x, height + _MARGIN, "State diagram", parts)


def _parse_states(lines: list[str]) -> tuple[dict[str, str], dict[tuple[str, str], list[str]]]:
    """Return the texts of the states, and the texts of all transitions between two states."""
    texts: dict[str, str] = {}
    transitions: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if found := _TRANSITION.fullmatch(line):
            labels = transitions.setdefault((found["source"], found["target"]), [])
            if found["text"]:
                labels.append(found["text"])
        elif found := _STATE.fullmatch(line):
            texts[found["id"]] = found["text"]
        else:
            raise DiagramError(f"cannot be drawn: {line}")
    return texts, transitions


def _ranks(transitions: dict[tuple[str, str], list[str]]) -> dict[str, int]:
    """Return the column of each state: its distance from the start."""
    ranks: dict[str, int] = {}
    waiting = [(target, 0) for source, target in transitions if source == _EDGE]
    for state, rank in waiting:
        if state != _EDGE and state not in ranks:
            ranks[state] = rank
            waiting += [(target, rank + 1) for source, target in transitions if source == state]
    return ranks


def _draw_transition(
    source: str, target: str, labels: list[str], places: dict[str, tuple[float, float, float]]
) -> list[str]:
    if source == _EDGE:
        left, middle, _ = places[target]
        dot = f'<circle class="head" cx="{left - 30:.1f}" cy="{middle:.1f}" r="6"/>'
        return [dot, _line(left - 30, middle, left - 8, middle, kind="message"), _head(left, middle, 1)]
    if target == _EDGE:
        left, middle, width = places[source]
        x = left + width
        ring = (
            f'<circle class="ring" cx="{x + 30:.1f}" cy="{middle:.1f}" r="8"/>'
            f'<circle class="head" cx="{x + 30:.1f}" cy="{middle:.1f}" r="4"/>'
        )
        return [_line(x, middle, x + 14, middle, kind="message"), _head(x + 22, middle, 1), ring]
    left, start_y, width = places[source]
    start_x, (end_x, end_y, _) = left + width, places[target]
    bend = start_x + 20
    path = f"M{start_x:.1f} {start_y:.1f} L{bend:.1f} {end_y:.1f} L{end_x - 8:.1f} {end_y:.1f}"
    text_y = end_y - 8 - _LINE_HEIGHT * (len(labels) - 1)
    return [
        f'<path class="message" d="{path}"/>',
        _head(end_x, end_y, 1),
        _text((bend + end_x) / 2, text_y, labels),
    ]
