"""Budgets: what a compressed network may cost, as `compress` takes it.

Whatever a budget limits, it says at which batch and on how many threads layers are timed, for none is replaced by a
slower one. `of` counts a network, or the layers that stand in the place of one, against it.
"""

from dataclasses import dataclass

from fastopt._kernels import core
from fastopt._numbers import finite_number, flag, whole_number
from fastopt.nn.files import stored_arrays
from fastopt.nn.layers import chain


class Budget:
    """Base of the budgets.

    Attributes
    ----------
    batch, threads : int
        What times are measured at.
    folded : bool
        Whether times are those of the folded network, which serves, or of the network as it is.
    """

    batch: int
    threads: int
    folded: bool

    @property
    def limit(self) -> float:
        """What the network may cost."""
        raise NotImplementedError

    def __post_init__(self):
        object.__setattr__(self, "batch", whole_number("batch", self.batch))
        object.__setattr__(self, "threads", whole_number("threads", self.threads, most=core.MAX_THREADS))
        object.__setattr__(self, "folded", flag("folded", self.folded))

    def of(self, net, timing) -> float:
        """What a network costs whose call takes `timing`."""
        raise NotImplementedError

    def shown(self, cost) -> str:
        """A cost in words."""
        raise NotImplementedError


@dataclass(frozen=True)
class Latency(Budget):
    """Time of a call of ``predict``, measured on this machine.

    Parameters
    ----------
    us : float
        Microseconds of a call, above 0.
    batch, threads : int
        Samples of the call, and threads that it may use.
    folded : bool
        Measure ``net.fold()``, for that is what serves; False measures the network as it is.

    Examples
    --------
    >>> from fastopt import lowrank
    >>> lowrank.Latency(200, batch=8)
    Latency(us=200.0, batch=8, threads=1, folded=True)
    """

    us: float
    batch: int = 1
    threads: int = 1
    folded: bool = True

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "us", finite_number("us", self.us, above=0))

    @property
    def limit(self):
        return self.us

    def of(self, net, timing):
        return timing.seconds * 1e6

    def shown(self, cost):
        return f"{cost:.4g} µs"


@dataclass(frozen=True)
class _Count(Budget):
    """Base of the budgets that are counted, and met exactly."""

    n: int
    batch: int = 1
    threads: int = 1
    folded: bool = True

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "n", whole_number("n", self.n))

    @property
    def limit(self):
        return self.n


@dataclass(frozen=True)
class MultiplyAdds(_Count):
    """Multiply-adds of one sample in inference, those of matrix products, as `nn.summary` counts them.

    Parameters
    ----------
    n : int
        At least 1.
    batch, threads, folded
        What layers are timed at, for none is replaced by a slower one; see `Latency`.

    Examples
    --------
    >>> from fastopt import lowrank
    >>> lowrank.MultiplyAdds(5_000_000).n
    5000000
    """

    def of(self, net, timing):
        return multiply_adds(net.layers, net.input_shape)

    def shown(self, cost):
        return f"{cost:,} multiply-adds"


@dataclass(frozen=True)
class Bytes(_Count):
    """Bytes of all arrays that a model file keeps, as `nn.summary` counts them; names and metadata come on top.

    Parameters
    ----------
    n : int
        At least 1.
    batch, threads, folded
        What layers are timed at, for none is replaced by a slower one; see `Latency`.

    Examples
    --------
    >>> from fastopt import lowrank
    >>> lowrank.Bytes(100_000).n
    100000
    """

    def of(self, net, timing):
        return stored_bytes(net)

    def shown(self, cost):
        return f"{cost:,} bytes"


def multiply_adds(layers, input_shape) -> int:
    """Multiply-adds of one sample, those of layers inside others included."""
    shapes = chain.shapes(layers, input_shape)[:-1]
    inner = sum(
        multiply_adds(branch, shape) for layer, shape in zip(layers, shapes, strict=True) for branch in layer.chains()
    )
    return inner + sum(layer.multiply_adds(shape) for layer, shape in zip(layers, shapes, strict=True))


def stored_bytes(net) -> int:
    """Bytes of all arrays that a model file keeps of a network."""
    return sum(array.nbytes for array in stored_arrays(net).values())
