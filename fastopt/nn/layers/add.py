"""Add: parallel branches, their outputs added."""

from fastopt.nn.layers.branches import Branches
from fastopt.nn.layers.chain import lay_out


class Add(Branches):
    """Parallel branches over the same input, the sum of their outputs; `Residual` is the sum with the input itself.

    Parameters
    ----------
    branches : list of list of Layer
        Must end in one shape. An empty branch is the input itself.

    Attributes
    ----------
    branches : tuple of tuple of Layer
    layers : tuple of Layer
        Those of all branches, one branch after the other, as model files number them.

    Examples
    --------
    A block of ResNet whose shortcut changes the number of channels (He et al. 2016):

    >>> import fastopt as fo
    >>> first = fo.nn.Conv2d(8, 16, 3, padding=1, activation="relu")
    >>> block = fo.nn.Add([[first, fo.nn.Conv2d(16, 16, 3, padding=1)], [fo.nn.Conv2d(8, 16, 1)]])
    >>> block.output_shape((28, 28, 8))
    (28, 28, 16)
    """

    def __init__(self, branches):
        super().__init__(branches)
        ends = set(filter(None, self._widths()))
        if len(ends) > 1:
            raise ValueError(f"branches: expected branches that end equally wide, got {sorted(ends)}")
        self.out_features = next(iter(ends), None)

    def output_shape(self, input_shape):
        ends = self._ends(input_shape)
        if len(set(ends)) > 1:
            raise ValueError(f"expected branches that end in one shape, to add them, got {', '.join(map(str, ends))}")
        return ends[0]

    def lay_out(self, layout, src):
        ends = tuple(lay_out(branch, layout, src) for branch in self.branches)
        dst = layout.value(layout.shapes[ends[0]])
        layout.add("add", ends, dst)
        return dst
