"""Passes in the midst of which ranks exchange values of a network, and the gradients of these.

An entry of a program may come with an `Exchange` (`Layout.add`), which is called after the entry's forward and before
its backward. Every rank calls every exchange, also one whose batch has no rows.

A rank that failed between two exchanges would leave the others waiting in one. So whatever may fail comes before the
pass: room for the exchanges is reserved, and in a round all ranks tell each other that they come, and with how many
rows. An exchange only moves data then, of sizes that its ranks know.
"""

import numpy as np


class Exchange:
    """What ranks exchange at an entry of a program.

    `parts` shows the entry's values and gradients (`core.Parts`), which are read and written where they lie.
    """

    _room = np.empty(0)

    def part(self, rows) -> tuple[int, ...]:
        """Of entries up to this one: the first of so many rows that they run for, and how many; () for all rows."""
        return ()

    def reserve(self, parts, entry) -> None:
        """Make room for what comes; it may fail."""

    def forward(self, parts, entry) -> None:
        """After forward of the entry."""

    def backward(self, parts, entry) -> None:
        """Before backward of the entry."""

    def room(self, size, dtype) -> np.ndarray:
        """An array of so many numbers, the same one where there is one that large."""
        if self._room.size < size or self._room.dtype != dtype:
            self._room = np.empty(size, dtype)
        return self._room[:size]


def reserve(parts) -> None:
    """Room for all exchanges of a pass."""
    for entry, exchange in parts.program.exchanges:
        exchange.reserve(parts, entry)


def forward(parts):
    """Forward of all entries; returns what the last part does: of a step, the loss and what it counts."""
    first, stop = 0, len(parts.program.starts)
    for entry, exchange in parts.program.exchanges:
        parts.forward(first, entry + 1, *_rows(parts, entry))
        exchange.forward(parts, entry)
        first = entry + 1
    return parts.forward(first, stop)


def backward(parts, first, stop) -> None:
    """Backward of entries `first` to `stop`, which is not among them."""
    for entry, exchange in reversed(parts.program.exchanges):
        if first <= entry < stop:
            _backward(parts, entry + 1, stop)
            exchange.backward(parts, entry)
            stop = entry + 1
    _backward(parts, first, stop)


def divided(program) -> int:
    """How many entries, from the first on, run for some of the rows of a batch on each rank."""
    return max((entry + 1 for entry, exchange in program.exchanges if exchange.part(0)), default=0)


def _backward(parts, first, stop) -> None:
    rows = _rows(parts, stop - 1)
    parts.backward(first, stop, *rows)
    if rows and not rows[1]:  # this rank has none of them
        ends = [*parts.program.starts, parts.training.gradient.size]
        parts.training.gradient[ends[first] : ends[stop]] = 0


def _rows(parts, entry) -> tuple[int, ...]:
    """The first row that an entry runs for, and how many, where that is not all of them."""
    return next((found for other, e in parts.program.exchanges if entry <= other and (found := e.part(parts.rows))), ())
