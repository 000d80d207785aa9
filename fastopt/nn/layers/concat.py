"""Concat: parallel branches, joined along channels."""

from itertools import chain as joined

from fastopt.nn.layers.chain import check_each, lay_out, shapes, width_after, width_before
from fastopt.nn.layers.container import Container
from fastopt.nn.layers.layer import Layer


class Concat(Container):
    """Parallel branches over the same input, their outputs side by side along channels, as in Inception.

    Each branch writes its channels of the output: joining copies nothing.

    Parameters
    ----------
    branches : list of list of Layer
        Must end in images of one height and width, or in vectors. An empty branch is the input itself.

    Attributes
    ----------
    branches : tuple of tuple of Layer
    layers : tuple of Layer
        Those of all branches, one branch after the other, as model files number them.

    Examples
    --------
    >>> import fastopt as fo
    >>> wide = fo.nn.Conv2d(3, 4, 3, padding=1, activation="relu")
    >>> module = fo.nn.Concat([[fo.nn.Conv2d(3, 8, 1)], [wide], []])
    >>> module.output_shape((28, 28, 3))
    (28, 28, 15)
    """

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
        ends = [width_after(branch, self.in_features) for branch in self.branches]
        self.out_features = None if None in ends else sum(filter(None, ends))
        self.reshapes = self.out_features is None

    def _put(self, branches) -> None:
        object.__setattr__(self, "branches", tuple(map(tuple, branches)))
        object.__setattr__(self, "layers", tuple(joined.from_iterable(branches)))

    def chains(self):
        return list(self.branches)

    def replace_inside(self, function):
        self._put([function(branch) for branch in self.branches])

    def output_shape(self, input_shape):
        ends = [self._end(i, input_shape) for i in range(len(self.branches))]
        if len({end[:-1] for end in ends}) > 1:
            found = ", ".join(map(str, ends))
            raise ValueError(f"expected branches that end in one size, to join their channels, got {found}")
        return (*ends[0][:-1], sum(end[-1] for end in ends))

    def _end(self, i, input_shape):
        try:
            return shapes(self.branches[i], input_shape)[-1]
        except ValueError as error:
            raise ValueError(f"branches[{i}]: {error}") from None

    def config(self):
        return {"branches": [list(branch) for branch in self.branches]}

    def lay_out(self, layout, src):
        dst, first = layout.value(self.output_shape(layout.shapes[src])), 0
        for branch in self.branches:
            end = lay_out(branch, layout, src)
            layout.join(end, dst, first)
            first += layout.shapes[end][-1]
        return dst
