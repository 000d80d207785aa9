"""The published table of low-rank networks, with multiply-adds and speed measured here beside it.

    python asv_benchmarks/published_low_rank.py --threads 1

Every convolution of AlexNet, VGG-16 and Inception-v1 is factorized at the compression that the publication reports for
the convolutions of the network; all convolutions are timed, folded, at batch 1, beside themselves as they were. Weights
are random. Accuracies are the publication's: top-5 on ImageNet, as surveyed by Cheng et al. 2017.
"""

import argparse

import numpy as np

import fastopt as fo
from fastopt.bench._measure import measure
from fastopt.bench.lowrank import PUBLISHED
from fastopt.lowrank.budgets import multiply_adds
from fastopt.nn.layers import chain

# top-5 accuracy in percent before and after, speed-up
FIGURES = {
    ("alexnet", "two_factor"): (80.03, 80.56, 1.09),
    ("alexnet", "cp"): (80.03, 79.66, 1.82),
    ("vgg16", "two_factor"): (90.60, 90.47, 1.53),
    ("vgg16", "cp"): (90.60, 90.31, 2.05),
    ("inception_v1", "two_factor"): (92.21, 91.88, 1.08),
    ("inception_v1", "cp"): (92.21, 91.79, 1.20),
}
LABELS = {"two_factor": "BN low-rank", "cp": "CP"}
HEAD = (
    "network",
    "method",
    "top-5, published",
    "compression, published",
    "here",
    "multiply-adds",
    "speed-up, published",
    "here",
)


def main(threads) -> None:
    """Print a line of the table for each network and method."""
    print("| " + " | ".join(HEAD) + " |")
    print("|" + " --- |" * len(HEAD))
    for (name, method), (before, after, speed_up) in FIGURES.items():
        published = PUBLISHED[name]
        plain, compressed = published.network(), published.network(method)
        x = np.random.default_rng(0).standard_normal((1, *published.image)).astype(np.float32)
        calls = {key: call_of(net.fold(), x) for key, net in (("plain", plain), ("compressed", compressed))}
        seconds = measure(calls, threads)
        cells = (
            name,
            LABELS[method],
            f"{before} to {after} %",
            f"{getattr(published, method):.2f}",
            f"{weights(plain) / weights(compressed):.2f}",
            f"{work(plain) / 1e6:,.0f} M to {work(compressed) / 1e6:,.0f} M",
            f"{speed_up:.2f}x",
            f"{seconds['plain'] / seconds['compressed']:.2f}x",
        )
        print("| " + " | ".join(cells) + " |", flush=True)


def call_of(net, x):
    """The call to time."""
    return lambda: net.predict(x)


def weights(net) -> int:
    """Numbers in the filters of all convolutions."""
    return sum(layer.weight.size for layer in chain.walk(net.layers) if isinstance(layer, fo.nn.Conv2d))


def work(net) -> int:
    """Multiply-adds of an image."""
    return multiply_adds(net.layers, net.input_shape)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args().threads)
