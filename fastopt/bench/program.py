"""Inference of whole networks: folded for it, and as they were trained."""

from collections.abc import Iterator

from fastopt.bench._cases import Case, randoms
from fastopt.bench._networks import our_net, predict_case, title


def cases() -> Iterator[Case]:
    for widths in ([64, 64, 10], [64, 128, 64, 10], [784, 256, 10], [784, 256, 128, 10]):
        for n in (1, 32):
            yield predict_case(f"predict {title(widths)}, batch {n}", widths, n)
    for widths in ([64, 64, 10], [64, 128, 64, 10], [784, 256, 128, 10], [784, 512, 512, 10]):
        for n in (1, 32):
            yield unfolded_case(widths, n)


def unfolded_case(widths, n) -> Case:
    """With the layers and arrays of training."""

    def ours(x):
        net = our_net(widths)
        return lambda: net.predict(x)

    return Case(f"predict {title(widths)}, batch {n}, not folded", randoms((n, widths[0])), ours)
