"""Published networks for images, as their layers and as networks: LeNet, AlexNet, VGG-16, Inception-v1.

Their weights start at random. Every network is a list of layers first (`vgg16_layers`), which takes no memory:
`fastopt.nn.summary` counts it, and a `Sequential` of another input shape or dtype, or of some of the layers, is made of
it.
"""

import numpy as np

from fastopt.nn.layers import BatchNorm, Concat, Conv2d, Dense, Dropout, Flatten, GlobalAvgPool2d, Layer, MaxPool2d
from fastopt.nn.sequential import Sequential

__all__ = [
    "alexnet",
    "alexnet_layers",
    "inception_v1",
    "inception_v1_layers",
    "lenet",
    "lenet_layers",
    "vgg16",
    "vgg16_layers",
]

# outputs of the branches of a module: 1x1 | 3x3 reduction, 3x3 | 5x5 reduction, 5x5 | projection after the pool
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def lenet_layers(classes=10) -> list[Layer]:
    """The layers of `lenet`, without arrays yet.

    Examples
    --------
    >>> import fastopt as fo
    >>> layers = fo.nn.models.lenet_layers(classes=26)
    >>> net = fo.nn.Sequential(layers, rng=0, input_shape=(28, 28, 1))
    >>> net.output_shape
    (26,)
    """
    return [
        Conv2d(1, 32, 5, activation="relu"),
        MaxPool2d(2),
        Conv2d(32, 64, 5, activation="relu"),
        MaxPool2d(2),
        Flatten(),
        Dense(4 * 4 * 64, 256, "relu"),
        Dense(256, classes),
    ]


def lenet(classes=10, rng=0, dtype=np.float32) -> Sequential:
    """A network like LeNet-5 (LeCun et al. 1998) for images of 28 x 28 x 1, with relu and maxima.

    Parameters
    ----------
    classes : int
        Outputs, as logits.
    rng : int, numpy.random.Generator or None
        Where the initial weights come from.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    Sequential

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.models.lenet()
    >>> net.input_shape, net.output_shape
    ((28, 28, 1), (10,))
    """
    return Sequential(lenet_layers(classes), rng, dtype, input_shape=(28, 28, 1))


def alexnet_layers(classes=1000) -> list[Layer]:
    """The layers of `alexnet`, without arrays yet."""
    return [
        Conv2d(3, 96, 11, stride=4, activation="relu"),
        MaxPool2d(3, 2),
        Conv2d(96, 256, 5, padding=2, groups=2, activation="relu"),
        MaxPool2d(3, 2),
        Conv2d(256, 384, 3, padding=1, activation="relu"),
        Conv2d(384, 384, 3, padding=1, groups=2, activation="relu"),
        Conv2d(384, 256, 3, padding=1, groups=2, activation="relu"),
        MaxPool2d(3, 2),
        Flatten(),
        *_classifier(6 * 6 * 256, classes),
    ]


def alexnet(classes=1000, rng=0, dtype=np.float32) -> Sequential:
    """AlexNet (Krizhevsky et al. 2012) for images of 227 x 227 x 3, the size that its first layer covers exactly.

    The second, fourth and fifth convolution have two groups, as when it ran on two machines; the local response
    normalization, which later networks found useless, is left out.

    Parameters
    ----------
    classes : int
        Outputs, as logits.
    rng : int, numpy.random.Generator or None
        Where the initial weights come from.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    Sequential
    """
    return Sequential(alexnet_layers(classes), rng, dtype, input_shape=(227, 227, 3))


def vgg16_layers(classes=1000) -> list[Layer]:
    """The layers of `vgg16`, without arrays yet."""
    layers: list[Layer] = []
    before = 3
    for block in VGG16:
        for channels in block:
            layers.append(Conv2d(before, channels, 3, padding=1, activation="relu"))
            before = channels
        layers.append(MaxPool2d(2))
    return [*layers, Flatten(), *_classifier(7 * 7 * 512, classes)]


def vgg16(classes=1000, rng=0, dtype=np.float32) -> Sequential:
    """VGG-16 (Simonyan & Zisserman 2015, configuration D) for images of 224 x 224 x 3.

    Its weights take 553 MB in float32.

    Parameters
    ----------
    classes : int
        Outputs, as logits.
    rng : int, numpy.random.Generator or None
        Where the initial weights come from.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    Sequential
    """
    return Sequential(vgg16_layers(classes), rng, dtype, input_shape=(224, 224, 3))


def inception_v1_layers(classes=1000, batch_norm=True) -> list[Layer]:
    """The layers of `inception_v1`, without arrays yet."""
    layers: list[Layer] = [
        *_convolution(3, 64, 7, batch_norm, stride=2, padding=3),
        MaxPool2d(3, 2, ceil_mode=True),
        *_convolution(64, 64, 1, batch_norm),
        *_convolution(64, 192, 3, batch_norm, padding=1),
        MaxPool2d(3, 2, ceil_mode=True),
    ]
    before = 192
    for name, widths in MODULES.items():
        if name in ("4a", "5a"):
            layers.append(MaxPool2d(3, 2, ceil_mode=True))
        layers.append(_module(before, widths, batch_norm))
        before = widths[0] + widths[2] + widths[4] + widths[5]
    return [*layers, GlobalAvgPool2d(), Dropout(0.4), Dense(before, classes)]


def inception_v1(classes=1000, batch_norm=True, rng=0, dtype=np.float32) -> Sequential:
    """Inception-v1, also called GoogLeNet (Szegedy et al. 2015), for images of 224 x 224 x 3.

    Without the two classifiers beside the trunk, which the paper trains with, and without local response normalization.

    Parameters
    ----------
    classes : int
        Outputs, as logits.
    batch_norm : bool
        Whether a BatchNorm stands between each convolution, then without bias, and its relu (Ioffe & Szegedy 2015);
        `Sequential.fold` takes it away for inference.
    rng : int, numpy.random.Generator or None
        Where the initial weights come from.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    Sequential
    """
    return Sequential(inception_v1_layers(classes, batch_norm), rng, dtype, input_shape=(224, 224, 3))


def _module(before, widths, batch_norm) -> Concat:
    """An Inception module; widths as in MODULES."""
    one, reduce_3, three, reduce_5, five, projection = widths
    return Concat(
        [
            _convolution(before, one, 1, batch_norm),
            [*_convolution(before, reduce_3, 1, batch_norm), *_convolution(reduce_3, three, 3, batch_norm, padding=1)],
            [*_convolution(before, reduce_5, 1, batch_norm), *_convolution(reduce_5, five, 5, batch_norm, padding=2)],
            [MaxPool2d(3, 1, 1), *_convolution(before, projection, 1, batch_norm)],
        ]
    )


def _convolution(before, after, kernel_size, batch_norm, **options) -> list[Layer]:
    """A convolution with relu, normalized or not."""
    if not batch_norm:
        return [Conv2d(before, after, kernel_size, activation="relu", **options)]
    return [Conv2d(before, after, kernel_size, bias=False, **options), BatchNorm(after, activation="relu")]


def _classifier(features, classes) -> list[Layer]:
    """Two hidden layers of 4096, with dropout before each, and the logits."""
    return [
        Dropout(0.5),
        Dense(features, 4096, "relu"),
        Dropout(0.5),
        Dense(4096, 4096, "relu"),
        Dense(4096, classes),
    ]
