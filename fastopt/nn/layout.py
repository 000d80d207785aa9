"""The layout of a program: numbered values, and the entries that lead from one to the next.

A layer writes its entries against this interface only; it asks for the values that other entries read, not for what
a kernel keeps for itself. Value 0 is the input. The last section says the same in the words of `core.Program`.
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
        self.shapes, self.entries, self.training = [input_shape], [], training

    def value(self, shape) -> int:
        """The number of a new value."""
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def add(self, kind, sources, dst, *, weights=(), penalty=None, activation="identity", **own) -> None:
        """Add an entry that reads value `sources`, or a tuple of them, and writes value `dst`.

        `weights` are arrays in the order of their gradients; `penalty` is (l1, l2, max_norm) of the first of them.
        """
        sources = sources if isinstance(sources, tuple) else (sources,)
        parts = {"weights": tuple(weights), "penalty": penalty, "activation": activation, "own": own}
        self.entries.append({"kind": kind, "sources": sources, "dst": dst, **parts})

    def program(self, typenum, packed):
        """The compiled program."""
        return _program_of_widths(self.shapes, self.entries, typenum, packed)


# ---------------------------------------------------------------- in the words of core.Program


def _program_of_widths(shapes, entries, typenum, packed):
    """A program over vectors, whose values have widths.

    What backward needs besides the values of the layout takes a value of its own, numbered just before the one that
    the entry writes: preactivations (`keep`) where the derivative cannot be had from outputs, and statistics.
    """
    for shape in shapes:
        if len(shape) != 1:
            raise NotImplementedError(f"input_shape: expected (features,), got {shape}; images are not computed yet")
    widths, number, specs = [*shapes[0]], {0: 0}, []

    def value(width):
        widths.append(width)
        return len(widths) - 1

    for entry in entries:
        kind, own, (width,) = entry["kind"], dict(entry["own"]), shapes[entry["dst"]]
        spec = {"activation": entry["activation"], **dict(zip(("weight", "bias"), entry["weights"], strict=False))}
        if entry["activation"] in ("gelu", "silu"):
            spec["keep"] = value(width)
        if kind == "batch_norm":  # says None where it has no weights
            spec = {"weight": None, "bias": None, **spec}
            spec["statistics"] = value(-(-5 * width // 16))  # (5, width): a value has 16 rows at least
        if kind == "dense" and not own.pop("trained", True):
            kind = "whiten"
        elif kind == "dense" and own.get("groups", 1) > 1:
            kind = "grouped_dense"
        if entry["penalty"] is not None:
            spec["penalty"] = entry["penalty"]
        src, *shortcut = (number[source] for source in entry["sources"])
        if shortcut:
            (spec["shortcut"],) = shortcut
        number[entry["dst"]] = value(width)
        specs.append({"kind": kind, "src": src, "dst": number[entry["dst"]], **own, **spec})
    return core.Program(widths, specs, typenum, packed)
