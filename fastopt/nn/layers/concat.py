"""Concat: parallel branches, joined along channels."""

from fastopt.nn.layers.branches import Branches
from fastopt.nn.layers.chain import lay_out


class Concat(Branches):
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

    def __init__(self, branches):
        super().__init__(branches)
        ends = self._widths()
        self.out_features = None if None in ends else sum(filter(None, ends))
        self.reshapes = self.out_features is None

    def output_shape(self, input_shape):
        ends = self._ends(input_shape)
        if len({end[:-1] for end in ends}) > 1:
            found = ", ".join(map(str, ends))
            raise ValueError(f"expected branches that end in one size, to join their channels, got {found}")
        return (*ends[0][:-1], sum(end[-1] for end in ends))

    def lay_out(self, layout, src):
        dst, first = layout.value(self.output_shape(layout.shapes[src])), 0
        for branch in self.branches:
            end = lay_out(branch, layout, src)
            layout.join(end, dst, first)
            first += layout.shapes[end][-1]
        return dst
