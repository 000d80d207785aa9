"""Passes in the midst of which ranks exchange values of a network, and the gradients of these.

An entry of a program may come with an exchange (`Layout.add`), an object with two methods: ``forward(parts, entry)``
is called after the entry's forward, ``backward(parts, entry)`` before its backward. `parts` shows the values and
gradients of the entry (`core.Parts`), which an exchange reads and writes where they lie. Every rank calls every
exchange, also one whose batch has no rows.

An exchange with a method ``part(rows)`` divides the rows of a batch among ranks: the entries up to its own run for so
many rows from the first one on that it names.

An exchange only moves data, of sizes that all its ranks know: they have told each other in a round before the pass
that they come to it, and how many rows they have.
"""


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
    return max((entry + 1 for entry, exchange in program.exchanges if hasattr(exchange, "part")), default=0)


def _backward(parts, first, stop) -> None:
    rows = _rows(parts, stop - 1)
    parts.backward(first, stop, *rows)
    if rows and not rows[1]:  # this rank has none of them
        ends = [*parts.program.starts, parts.training.gradient.size]
        parts.training.gradient[ends[first] : ends[stop]] = 0


def _rows(parts, entry) -> tuple[int, ...]:
    """The first row that an entry runs for, and how many, where that is not all of them."""
    dividing = (exchange for other, exchange in parts.program.exchanges if entry <= other and hasattr(exchange, "part"))
    return next((exchange.part(parts.rows) for exchange in dividing), ())
