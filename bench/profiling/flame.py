"""Folded stacks as a flame graph: plain SVG without scripts, small enough to be kept; what a frame is appears when the mouse rests on it."""

from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

Stacks = Counter[tuple[str, ...]]
WIDTH, ROW, TOP = 1200, 15, 40
MOST = 280_000
"""Characters; frames are left out, the smallest first, until it fits."""

COLOURS = {
    "streams/": "#74c0fc", "schemas/": "#74c0fc", "bench/": "#96f2d7", "aiokafka/": "#ffd43b", "asyncpg/": "#b197fc",
    "faust/": "#ffa94d", "mode/": "#ffa94d",
}  # fmt: skip


class Frame(NamedTuple):
    """A box: where it begins and how wide it is, in samples."""

    depth: int
    start: int
    samples: int
    name: str


def folded(text: str) -> Stacks:
    """`outermost;…;innermost count`, a line each, as py-spy writes them; line numbers are left out."""
    found: Stacks = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        found[tuple(_named(frame) for frame in stack.split(";"))] += int(count)
    return found


def _named(frame: str) -> str:
    """`name (file:line)` without the line."""
    head, colon, _ = frame.rpartition(":")
    return f"{head})" if colon and frame.endswith(")") else frame


def flame(title: str, stacks: Stacks) -> str:
    """The picture, outermost frame on top."""
    whole, frames = stacks.total(), list(_frames(stacks, 0, 0))
    least = 0.001
    while len(picture := _picture(title, [each for each in frames if each.samples >= least * whole], whole, least)) > MOST:
        least *= 1.5
    return picture


def _frames(stacks: Stacks, depth: int, start: int) -> Iterator[Frame]:
    """Siblings by name, each with what it called below it."""
    below: dict[str, Stacks] = {}
    for stack, count in stacks.items():
        if len(stack) > depth:
            below.setdefault(stack[depth], Counter())[stack] += count
    for name, part in sorted(below.items()):
        yield Frame(depth, start, part.total(), name)
        yield from _frames(part, depth + 1, start)
        start += part.total()


def _picture(title: str, frames: list[Frame], whole: int, least: float) -> str:
    height = TOP + ROW * (2 + max(each.depth for each in frames))
    note = f"{whole:,} samples of who holds the interpreter's lock; frames below {least:.1%} are left out"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="ui-monospace, monospace" font-size="10">',
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            f'<text x="8" y="17" font-size="14">{escape(title)}</text><text x="8" y="32" fill="#868e96">{escape(note)}</text>',
            *(_box(each, whole) for each in frames),
            "</svg>",
            "",
        ]
    )


def _box(frame: Frame, whole: int) -> str:
    x, width, y = WIDTH * frame.start / whole, WIDTH * frame.samples / whole, TOP + ROW * frame.depth
    letters = int(width / 6.2)
    label = f'<text x="{x + 2:.1f}" y="{y + 11}">{escape(frame.name[:letters])}</text>' if letters > 3 else ""
    title = f"<title>{escape(frame.name)} {frame.samples / whole:.1%}</title>"
    return f'<g>{title}<rect x="{x:.1f}" y="{y}" width="{max(width - 0.3, 0.2):.1f}" height="14" fill="{_colour(frame.name)}"/>{label}</g>'


def _colour(name: str) -> str:
    """Ours, the client libraries, Faust, and everybody else."""
    return next((colour for folder, colour in COLOURS.items() if f"({folder}" in name), "#dee2e6")
