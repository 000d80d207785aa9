"""Inference by networks of dense layers: folded for it, in groups of like size, and as they were trained."""

from collections.abc import Iterator

from fastopt.bench._cases import Case, randoms
from fastopt.bench._networks import our_net, predict_case, title

SMALL = ([64, 64], [64, 64, 10], [64, 128, 64, 10], [784, 256, 10])
MIDDLE = ([256, 256], [784, 256, 128, 10], [300, 200, 100, 5])  # weights of up to 1 MiB
LARGE = ([1024, 1024], [4096, 4096])  # of 4 and 64 MiB
UNEVEN = [1000, 1040]  # inputs are no whole number of vectors, outputs none of tiles
GROUPS = (
    ("small networks", SMALL, (1, 4, 32, 256)),
    ("networks to 1 MiB, batch 1 and 32", MIDDLE, (1, 32)),
    ("networks to 1 MiB, batch 64 and 256", MIDDLE, (64, 256)),
    ("1024x1024 and 4096x4096, batch 1", LARGE, (1,)),
    ("1024x1024 and 4096x4096, batch 32 and 256", LARGE, (32, 256)),
    *((f"256x256 to 4096x4096, batch {n}", (*MIDDLE, *LARGE, UNEVEN), (n,)) for n in (4, 6, 8, 24)),
)


def cases() -> Iterator[Case]:
    for family, networks, batches in GROUPS:
        for widths in networks:
            for n in batches:
                yield folded_case(widths, n, f"predict {family}")
    for widths in ([64, 64, 10], [64, 128, 64, 10], [784, 256, 128, 10], [784, 512, 512, 10]):
        for n in (1, 32):
            yield unfolded_case(widths, n)


def folded_case(widths, n, family) -> Case:
    """A network, or a single layer, which ends in ReLU."""
    if len(widths) > 2:
        return predict_case(f"predict {title(widths)}, batch {n}", widths, n, family=family)
    what = f"predict dense + relu {widths[0]}x{widths[1]}, batch {n}"
    return predict_case(what, widths, n, final="relu", family=family)


def unfolded_case(widths, n) -> Case:
    """With the layers and arrays of training."""

    def ours(x):
        net = our_net(widths)
        return lambda: net.predict(x)

    return Case(f"predict {title(widths)}, batch {n}, not folded", randoms((n, widths[0])), ours)
