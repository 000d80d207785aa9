"""What the layers share that hold parallel branches over one input: Add and Concat."""

from itertools import chain as joined

from fastopt.nn.layers.chain import check_each, shapes, width_after, width_before
from fastopt.nn.layers.container import Container
from fastopt.nn.layers.layer import Layer


class Branches(Container):
    """Base of the layers of branches, lists of layers; an empty one is the input itself."""

    branches: tuple[tuple[Layer, ...], ...]

    def __init__(self, branches):
        if not isinstance(branches, list | tuple) or not branches:
            raise ValueError(f"branches: expected a list of at least one branch, a list of layers, got {branches!r}")
        for i, branch in enumerate(branches):
            if not isinstance(branch, list | tuple):
                raise TypeError(f"branches[{i}]: expected a list of layers, got {type(branch).__name__}")
        self._put([check_each(f"branches[{i}]", branch) for i, branch in enumerate(branches)])
        self._require_no_statistics("branch")
        self.in_features = next(filter(None, map(width_before, self.branches)), None)

    def _put(self, branches) -> None:
        object.__setattr__(self, "branches", tuple(map(tuple, branches)))
        object.__setattr__(self, "layers", tuple(joined.from_iterable(branches)))

    def chains(self):
        return list(self.branches)

    def replace_inside(self, function):
        self._put([function(branch) for branch in self.branches])

    def _widths(self) -> list[int | None]:
        """Channels that each branch ends in; None where it takes what comes."""
        return [width_after(branch, self.in_features) for branch in self.branches]

    def _ends(self, input_shape) -> list[tuple[int, ...]]:
        """Shapes that the branches end in; ValueError names the branch whose layers do not fit."""
        return [self._end(i, input_shape) for i in range(len(self.branches))]

    def _end(self, i, input_shape):
        try:
            return shapes(self.branches[i], input_shape)[-1]
        except ValueError as error:
            raise ValueError(f"branches[{i}]: {error}") from None

    def config(self):
        return {"branches": [list(branch) for branch in self.branches]}
