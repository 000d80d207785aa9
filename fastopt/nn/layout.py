"""The layout of a program: numbered values, and the entries that lead from one to the next.

A layer writes its entries against this interface only; it asks for the values that other entries read, not for what
a kernel keeps for itself. Value 0 is the input.
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
    """

    def __init__(self, input_shape, training):
        self.shapes, self.places, self.entries, self.training = [input_shape], [{}], [], training

    def value(self, shape, **place) -> int:
        """The number of a new value.

        `place` says where it lies, unless in memory of its own: ``border=(rows, columns)`` of zeros around an image;
        ``owner=number, first=channel`` within channels of the value `owner`, or as the whole of it in another shape.
        """
        self.shapes.append(shape)
        self.places.append(place)
        return len(self.shapes) - 1

    def add(self, kind, sources, dst, *, weights=(), penalty=None, activation="identity", **own) -> None:
        """Add an entry that reads value `sources`, or a tuple of them, and writes value `dst`.

        `weights` are the trained arrays, in the order of their gradients; `penalty` is (l1, l2, max_norm) of the first.
        """
        sources = sources if isinstance(sources, tuple) else (sources,)
        parts = {"weights": tuple(weights), "penalty": penalty, "activation": activation, "own": own}
        self.entries.append({"kind": kind, "sources": sources, "dst": dst, **parts})

    def program(self, typenum, fixed) -> core.Program:
        """The compiled program; `fixed`: its parameters will not change."""
        values = [{"shape": shape, **place} for shape, place in zip(self.shapes, self.places, strict=True)]
        return core.Program(values, self.entries, typenum, fixed)
