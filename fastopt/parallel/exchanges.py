"""Passes in the midst of which ranks exchange values of a network, and the gradients of these.

An entry of a program may come with an exchange (`Layout.add`), an object with two methods: ``forward(parts, entry)``
is called after the entry's forward, ``backward(parts, entry)`` before its backward. `parts` shows the values and
gradients of the entry (`core.Parts`), which an exchange reads and writes where they lie. Every rank calls every
exchange, also one whose batch has no rows.

An exchange only moves data, of sizes that all its ranks know: they have told each other in a round before the pass
that they come to it, and how many rows they have.
"""


def forward(parts):
    """Forward of all entries; returns what the last part does: of a step, the loss and what it counts."""
    first, stop = 0, len(parts.program.starts)
    for entry, exchange in parts.program.exchanges:
        parts.forward(first, entry + 1)
        exchange.forward(parts, entry)
        first = entry + 1
    return parts.forward(first, stop)


def backward(parts, first, stop) -> None:
    """Backward of entries `first` to `stop`, which is not among them."""
    for entry, exchange in reversed(parts.program.exchanges):
        if first <= entry < stop:
            parts.backward(entry + 1, stop)
            exchange.backward(parts, entry)
            stop = entry + 1
    parts.backward(first, stop)
