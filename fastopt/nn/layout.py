"""The layout of a program: numbered values, and the entries that lead from one to the next.

A layer writes its entries against this interface only; it asks for the values that other entries read, not for what
a kernel keeps for itself. Value 0 is the input.

Where a value lies is settled when the program is made: until then a border grows to what the widest reader asks for
(`bordered`), and what a branch ends in becomes channels of what the branches make together (`join`).
"""

from fastopt._kernels import core


class Layout:
    """Numbers the values of a program and collects its entries.

    Parameters
    ----------
    input_shape : tuple of int
        Of a sample, as all shapes here.
    training : bool
        Whether the program is to train, where that makes a difference to its entries.
    packed : bool
        Whether entries read weights that are packed, as layers keep them after `pack`.
    """

    def __init__(self, input_shape, training, packed=False):
        self.shapes, self.entries, self.training, self.packed = [input_shape], [], training, packed
        self.places: list[dict] = [{}]
        self._kept = {0}  # values that stay without a border, in memory of their own
        self._read: set[int] = set()  # values that are a source of an entry
        self.frozen = False  # whether the weights of entries to come are; see `chain.lay_out`

    def value(self, shape, **place) -> int:
        """The number of a new value.

        `place` says where it lies, unless in memory of its own: ``border=(rows, columns)`` of zeros around an image;
        ``owner=number, first=channel`` within channels of the value `owner`, or as the whole of it in another shape.
        """
        self.shapes.append(shape)
        self.places.append(place)
        return len(self.shapes) - 1

    def bordered(self, src, border) -> int:
        """A value with the contents of `src`, an image, within zeros of at least (rows, columns).

        It is `src`, whose border grows, or a copy where that has to stay without one: the input, what `plain` gave.
        """
        if not any(border):
            return src
        if src in self._kept or "owner" in self.places[src]:
            src = self._copy(src)
        self.places[src]["border"] = tuple(map(max, self.places[src].get("border", (0, 0)), border))
        return src

    def plain(self, src) -> int:
        """A value with the contents of `src` that has no border, and gets none, in memory of its own."""
        if self.places[src]:
            src = self._copy(src)
        self._kept.add(src)
        return src

    def join(self, src, owner, first) -> None:
        """Make `src` the channels of value `owner` from `first` on; a copy of it where others need it as it is."""
        if src < owner or src in self._read or src in self._kept or "owner" in self.places[src]:
            src = self._copy(src)
        self.places[src] = {"owner": owner, "first": first}

    def end(self, src) -> None:
        """Make `src` the output, which is the last value, plain and not the input; or else a copy of it."""
        if src == 0 or src < len(self.shapes) - 1 or self.places[src]:
            self._copy(src)

    def _copy(self, src) -> int:
        dst = self.value(self.shapes[src])
        self.add("add", src, dst)
        return dst

    def add(self, kind, sources, dst, *, weights=(), penalty=None, activation="identity", exchange=None, **own) -> None:
        """Add an entry that reads value `sources`, or a tuple of them, and writes value `dst`.

        `weights` are the trained arrays, in the order of their gradients; `penalty` is (l1, l2, max_norm) of the first.
        `exchange` is what ranks exchange after forward of the entry and before its backward (`fastopt.parallel`).
        """
        sources = sources if isinstance(sources, tuple) else (sources,)
        self._read.update(sources)
        parts = {"weights": tuple(weights), "penalty": penalty, "activation": activation, "own": own}
        if exchange is not None:
            parts["exchange"] = exchange
        if self.frozen and weights:
            parts["frozen"] = True
        self.entries.append({"kind": kind, "sources": sources, "dst": dst, **parts})

    def program(self, typenum, fixed, input_gradient=False) -> core.Program:
        """The compiled program; `fixed`: its parameters are only read. `input_gradient`: that of value 0 is wanted."""
        values: list[dict] = []
        for shape, place in zip(self.shapes, self.places, strict=True):
            if "owner" in place:  # which may itself be channels of another
                outer = values[place["owner"]]
                first = outer.get("first", 0) + place.get("first", 0)
                place = {"owner": outer.get("owner", place["owner"]), "first": first}
            values.append({"shape": shape, **place})
        return core.Program(values, self.entries, typenum, fixed, input_gradient)
