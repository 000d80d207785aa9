"""Augmentation of images: RandomShift and RandomFlip, nothing in inference."""

from fastopt._numbers import flag, whole_number
from fastopt.nn.layers.training_only import TrainingOnly


class Augmentation(TrainingOnly):
    """What both share: images only, and their one entry."""

    def output_shape(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(f"expected images (height, width, channels), got {input_shape}; give input_shape=")
        return super().output_shape(input_shape)

    def _augment(self, layout, src, shift, flip):
        if not layout.training or not any(shift + flip):
            return src
        dst = layout.value(layout.shapes[src])
        layout.add("augment", src, dst, shift=shift, flip=flip, seed=self.seed)
        return dst


class RandomShift(Augmentation):
    """Move each image by a random number of whole pixels in training, and not at all in inference.

    Each image of a batch moves by numbers of pixels drawn uniformly from ``-height`` to ``height`` and from ``-width``
    to ``width``. Zeros come in where it leaves.

    Parameters
    ----------
    height, width : int
        The largest shifts down or up, and to the right or left; less than the image is high and wide.

    Attributes
    ----------
    seed : ndarray, shape (), uint64
        Drawn from the network's random numbers. It, the count of batches and the number of the image in the batch
        decide. Model files and runs keep it.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> layers = [fo.nn.RandomShift(2, 2), fo.nn.Dense(1, 4)]
    >>> net = fo.nn.Sequential(layers, input_shape=(28, 28, 1), rng=0)
    >>> net.predict(np.zeros((2, 28, 28, 1))).shape
    (2, 28, 28, 4)
    """

    def __init__(self, height, width):
        self.height, self.width = whole_number("height", height, 0), whole_number("width", width, 0)

    def config(self):
        return {"height": self.height, "width": self.width}

    def marks(self):
        return [f"{self.height}x{self.width}"]

    def output_shape(self, input_shape):
        shape = super().output_shape(input_shape)
        if self.height >= shape[0] or self.width >= shape[1]:
            least = f"{self.height + 1}x{self.width + 1}"
            raise ValueError(f"expected images of at least {least} for such shifts, got {shape[0]}x{shape[1]}")
        return shape

    def lay_out(self, layout, src):
        return self._augment(layout, src, (self.height, self.width), (False, False))


class RandomFlip(Augmentation):
    """Flip each image with probability 1/2 in training, and none in inference.

    Parameters
    ----------
    horizontal : bool
        Exchange left and right, of each image with probability 1/2.
    vertical : bool
        Exchange above and below, likewise and independently.

    Attributes
    ----------
    seed : ndarray, shape (), uint64
        As of `RandomShift`.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> layers = [fo.nn.RandomFlip(), fo.nn.Dense(3, 4)]
    >>> net = fo.nn.Sequential(layers, input_shape=(32, 32, 3), rng=0)
    >>> net.predict(np.zeros((2, 32, 32, 3))).shape
    (2, 32, 32, 4)
    """

    def __init__(self, horizontal=True, vertical=False):
        self.horizontal, self.vertical = flag("horizontal", horizontal), flag("vertical", vertical)

    def config(self):
        return {"horizontal": self.horizontal, "vertical": self.vertical}

    def marks(self):
        return [name for name, flips in self.config().items() if flips]

    def lay_out(self, layout, src):
        return self._augment(layout, src, (0, 0), (self.vertical, self.horizontal))
