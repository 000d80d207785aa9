"""Low rank: decompositions, factorized layers, and the convolutions of published networks before and after.

- `cp` beside tensorly's parafac, both from one start and without a test of convergence; `truncated_svd` beside the
  whole SVD of SciPy and scikit-learn's randomized_svd. `asv_benchmarks/low_rank.py` prints their errors, too.
- A convolution in its CP and Tucker-2 form beside the factorized convolution of tensorly-torch, of the same ranks.
- Convolutions of AlexNet, VGG-16 and Inception-v1, each layer compressed at the rate at which a publication has
  compressed the network, beside the network as it was. Weights are random: times do not depend on them.
"""

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import NamedTuple

import numpy as np

import fastopt as fo
from fastopt.bench._cases import Case, random, randoms
from fastopt.bench._networks import channels_first
from fastopt.nn import models
from fastopt.nn.layers import Concat, Conv2d, Flatten, GlobalAvgPool2d, Layer

CONVOLUTIONS = ((64, 192, 56), (96, 128, 28), (112, 224, 14), (192, 384, 7))  # 3x3: in, out, size of the image
RATE = 4.0  # compression of these


def cases() -> Iterator[Case]:
    yield cp_case()
    yield svd_case()
    yield svd_case((2000, 800), 100, falling=True)
    for method, decompose in (("two_factor", fo.lowrank.two_factor), ("tucker2", fo.lowrank.tucker2)):
        yield decomposition_case(method, decompose).alone()
    for size in CONVOLUTIONS:
        for method in ("cp", "tucker2"):
            yield convolution_case(*size, method)
    for name, published in PUBLISHED.items():
        yield network_case(name, "two_factor", published.compressions["BN low-rank"])
        yield network_case(name, "cp", published.compressions["CP"])


def cp_case() -> Case:
    rank, sweeps = 32, 50

    def ours(T):
        return lambda: fo.lowrank.cp(T, rank, tol=0, max_sweeps=sweeps, restarts=1)

    def tensorly(T):
        import tensorly
        from tensorly.decomposition import parafac

        tensorly.set_backend("numpy")  # tensorly-torch sets its own for everyone
        return lambda: parafac(T, rank, n_iter_max=sweeps, tol=0, init="random", random_state=0)

    setup = randoms((64, 64, 3, 3), dtype="float64")
    what = f"cp 64x64x3x3, rank {rank}, {sweeps} sweeps"
    return Case(what, setup, ours, {"tensorly": tensorly}, dtype="float64", family="decompositions")


def svd_case(shape=(4096, 1024), rank=64, falling=False) -> Case:
    """Of random numbers, whose singular values are much alike, or fall by half within each fiftieth of them."""

    def setup():
        W = random(*shape, dtype="float64")
        if falling:
            W = (W * 0.5 ** (np.arange(shape[1]) * 50 / shape[1])) @ random(shape[1], shape[1], dtype="float64")
        return [W]

    def ours(W):
        return lambda: fo.lowrank.truncated_svd(W, rank)

    def scipy(W):
        from scipy.linalg import svd

        return lambda: svd(W, full_matrices=False)

    def sklearn(W):
        from sklearn.utils.extmath import randomized_svd

        return lambda: randomized_svd(W, rank, random_state=0)

    what = f"truncated_svd {'x'.join(map(str, shape))}, rank {rank}" + (", falling" if falling else "")
    peers = {"scipy": scipy, "scikit-learn": sklearn}
    return Case(what, setup, ours, peers, dtype="float64", family="decompositions")


def decomposition_case(method, decompose) -> Case:
    rank = 96

    def ours(W):
        return lambda: decompose(W, rank)

    what = f"{method} 256x3x3x256, rank {rank}"
    return Case(what, randoms((256, 3, 3, 256), dtype="float64"), ours, dtype="float64", family="decompositions")


# ---------------------------------------------------------------- layers


def convolution_case(n_in, n_out, size, method) -> Case:
    """Inference of one image by a 3x3 convolution that has been factorized at RATE."""
    image = (size, size, n_in)
    layer = Conv2d(n_in, n_out, 3, padding=1)
    rank = fo.lowrank.rank_of(layer, method, RATE)

    def ours(x):
        fo.nn.Sequential([layer], rng=0, input_shape=image)
        net = fo.nn.Sequential(factors(layer, method, rank), input_shape=image).fold()
        return lambda: net.predict(x)

    def tltorch(x):
        import tensorly
        import torch
        from tltorch import FactorizedConv

        tensorly.set_backend("pytorch")
        conv, t = torch.nn.Conv2d(n_in, n_out, 3, padding=1), torch.from_numpy(channels_first(x))
        kind, ranks = ("cp", rank) if method == "cp" else ("tucker", (*rank, 3, 3))
        module = FactorizedConv.from_conv(conv, rank=ranks, factorization=kind, decompose_weights=False)
        return torch.inference_mode()(lambda: module(t))

    what = f"{method} of 3x3 {n_in}-{n_out} at {size}x{size}, rank {rank}"
    return Case(what, randoms((1, *image)), ours, {"tltorch": tltorch}, family="predict factorized conv2d")


def factors(layer, method, rank, batch_norm=False) -> list[Layer]:
    """The layers in the place of one. CP makes a single sweep: its values do not matter here."""
    options = {"max_sweeps": 1, "restarts": 1, "tol": 0} if method == "cp" else {}
    return fo.lowrank.factorize(layer, method, rank, batch_norm=batch_norm, **options)


# ---------------------------------------------------------------- networks


class Published(NamedTuple):
    """A network, and the compressions of its convolutions that a publication reports."""

    layers: Callable[[], list[Layer]]
    image: tuple[int, int, int]
    compressions: dict[str, float]

    @property
    def convolutions(self) -> list[Layer]:
        """The layers before the classifier."""
        return list(takewhile(lambda layer: not isinstance(layer, Flatten | GlobalAvgPool2d), self.layers()))

    def network(self, method=None, compression=1.0) -> fo.nn.Sequential:
        """The convolutions as a network, as they are or factorized."""
        net = fo.nn.Sequential(self.convolutions, rng=0, input_shape=self.image)
        if method is None:
            return net
        return fo.nn.Sequential(factorized(net.layers, method, compression), rng=0, input_shape=self.image)


PUBLISHED = {
    "alexnet": Published(models.alexnet_layers, (227, 227, 3), {"BN low-rank": 4.94, "CP": 5.0}),
    "vgg16": Published(models.vgg16_layers, (224, 224, 3), {"BN low-rank": 2.72, "CP": 2.75}),
    "inception_v1": Published(models.inception_v1_layers, (224, 224, 3), {"BN low-rank": 2.79, "CP": 2.84}),
}


def factorized(layers, method, compression) -> list[Layer]:
    """The layers with every convolution, also inside others, factorized at a compression, normalized if two_factor."""
    made: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Conv2d):
            rank = fo.lowrank.rank_of(layer, method, compression)
            made += factors(layer, method, rank, batch_norm=method == "two_factor")
        elif isinstance(layer, Concat):
            made.append(Concat([factorized(chain, method, compression) for chain in layer.chains()]))
        else:
            made.append(layer)
    return made


def network_case(name, method, compression) -> Case:
    """Inference of one image by the folded convolutions of a network, each factorized at the same compression."""
    published = PUBLISHED[name]

    def side(*how):
        def prepare(x):
            net = published.network(*how).fold()
            return lambda: net.predict(x)

        return prepare

    what, yardsticks = f"convolutions of {name}, {method} at {compression}, batch 1", {"uncompressed": side()}
    setup, ours = randoms((1, *published.image)), side(method, compression)
    return Case(what, setup, ours, family="convolutions at published compressions", yardsticks=yardsticks)
