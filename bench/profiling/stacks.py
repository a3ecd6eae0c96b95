"""Folded stacks of a process, as py-spy writes them: how often each was seen."""

from collections import Counter

Stacks = Counter[tuple[str, ...]]


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
