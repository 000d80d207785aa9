"""Maxout: a product, and the largest of its pieces."""

from fastopt._numbers import whole_number
from fastopt.nn.layers.dense import Product


class Maxout(Product):
    """Maxout layer, the largest of `pieces` linear functions for each output (Goodfellow et al. 2013).

    Parameters
    ----------
    in_features, out_features : int
    pieces : int
        Linear functions per output.
    bias : bool
        Whether a bias is added.
    init : str, optional
        How the weights start, glorot by default: glorot, he, lecun (uniform), glorot_normal,
        he_normal, lecun_normal, orthogonal, sparse or zeros.
    l1, l2 : float
        The loss of training gains ``l1 * sum(abs(weight)) + l2 / 2 * sum(weight**2)``.
    max_norm : float, optional
        After a step of a `Trainer`, the weights of an output have at most this norm.
    trainable : bool
        False: training leaves weight and bias as they are; see `Layer.trainable`.

    Attributes
    ----------
    weight : ndarray, shape (out * pieces, in)
        The pieces of output o are the rows ``o * pieces`` to ``(o + 1) * pieces``. Starts uniform with the
        variance of Glorot & Bengio 2010, 2 / (in + out): the larger of two symmetric pieces has
        the mean square of one, so nothing is halved as by relu, and one piece an output hands
        the gradient on.
    bias : ndarray, shape (out * pieces,), or None
        Starts at zero.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Maxout(8, 4, pieces=3)], rng=0)
    >>> net.layers[0].weight.shape, net.out_features
    ((12, 8), 4)
    """

    _parameters = ("activation", "groups")

    def __init__(
        self,
        in_features,
        out_features,
        pieces=2,
        bias=True,
        init=None,
        l1=0.0,
        l2=0.0,
        max_norm=None,
        *,
        trainable=True,
    ):
        super().__init__(in_features, out_features, bias, init, l1, l2, max_norm, trainable)
        self.pieces = whole_number("pieces", pieces)

    def _rows(self):
        return self.out_features * self.pieces

    def _matrices(self, weight):
        return weight.reshape(self.out_features, self.pieces, -1).transpose(1, 0, 2)

    def config(self):
        return self._config(pieces=self.pieces)

    def marks(self):
        return [f"{self.pieces} pieces"]

    def absorb_after(self, layer):
        return False  # the largest piece times a negative scale is not the largest

    def lay_out(self, layout, src):
        pieces, dst = super().lay_out(layout, src), layout.value(self.output_shape(layout.shapes[src]))
        layout.add("maxout", pieces, dst)
        return dst
