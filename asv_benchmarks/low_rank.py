"""Low rank: what docs/lowrank.md says of decompositions and docs/lowrank_networks.md of published networks.

    python asv_benchmarks/low_rank.py decompositions --threads 1
    python asv_benchmarks/low_rank.py networks --threads 1

decompositions: times and relative errors of `lowrank.truncated_svd` and `lowrank.cp` beside those of SciPy,
scikit-learn and tensorly, as far as they are installed.

networks: every convolution of AlexNet, VGG-16 and Inception-v1 is factorized at the compression that the publication
reports for the convolutions of the network; all of them are timed, folded, at batch 1, beside themselves as they were.
Weights are random. Accuracies are the publication's, top-5 on ImageNet, as surveyed by Cheng et al. 2017. Its figures
under "CP" are those that Tai et al. 2016 report for two factors without batch normalization, so these are timed, too.
"""

import argparse

import numpy as np

import fastopt as fo
from fastopt.bench._measure import measure, seconds
from fastopt.bench.lowrank import PUBLISHED, cp_case, svd_case
from fastopt.lowrank.budgets import multiply_adds
from fastopt.nn.layers import chain

# top-5 accuracy in percent before and after, speed-up, and the methods timed here
FIGURES = {
    ("alexnet", "BN low-rank"): (80.03, 80.56, 1.09, ["two_factor"]),
    ("alexnet", "CP"): (80.03, 79.66, 1.82, ["cp", "two_factor"]),
    ("vgg16", "BN low-rank"): (90.60, 90.47, 1.53, ["two_factor"]),
    ("vgg16", "CP"): (90.60, 90.31, 2.05, ["cp", "two_factor"]),
    ("inception_v1", "BN low-rank"): (92.21, 91.88, 1.08, ["two_factor"]),
    ("inception_v1", "CP"): (92.21, 91.79, 1.20, ["cp", "two_factor"]),
}


def decompositions(threads) -> None:
    """Print a line for each side of each case."""
    print("| work | by | ms | relative error |")
    print("| --- | --- | --- | --- |")
    falling = svd_case((2000, 800), 100, falling=True)
    for case, rank in ((cp_case(), 32), (svd_case(), 64), (falling, 100)):
        (W,) = case.setup()
        for side, time in seconds(case, threads).items():
            error = np.linalg.norm(W - whole(case.call(side)(), rank)) / np.linalg.norm(W)
            print(f"| {case.what} | {side} | {time * 1e3:.1f} | {error:.5f} |", flush=True)


def whole(found, rank) -> np.ndarray:
    """The array that factors stand for: ours, those of an SVD cut at the rank, or those of tensorly's CP."""
    if hasattr(found, "reconstruct"):
        return found.reconstruct()
    if isinstance(found, tuple):
        U, S, Vh = (factor[..., :rank] if i < 2 else factor[:rank] for i, factor in enumerate(found))
        return U * S @ Vh
    import tensorly

    return tensorly.cp_to_tensor(found)


def networks(threads) -> None:
    """Print a line for each network, published method and method here."""
    head = ["network", "published as", "top-5 before, after", "speed-up", "compression, here", "method here"]
    head += ["speed-up here", "ms before, after", "multiply-adds before, after"]
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for (name, label), (before, after, speed_up, methods) in FIGURES.items():
        published = PUBLISHED[name]
        compression = published.compressions[label]
        plain = published.network()
        for method in methods:
            compressed = published.network(method, compression)
            pair = plain, compressed
            ms = [1e3 * time for time in times(pair, threads)]
            cells = [name, label, f"{before:.2f}, {after:.2f} %", f"{speed_up:.2f}x"]
            cells += [f"{compression:.2f}x, {weights(plain) / weights(compressed):.2f}x", method]
            cells += [f"{ms[0] / ms[1]:.2f}x", ", ".join(f"{time:.2f}" for time in ms)]
            cells += [", ".join(f"{multiply_adds(net.layers, net.input_shape) / 1e6:,.0f} M" for net in pair)]
            print("| " + " | ".join(cells) + " |", flush=True)


def times(nets, threads) -> list[float]:
    """Seconds of a call of each folded network with one image; they take turns."""
    x = np.random.default_rng(0).standard_normal((1, *nets[0].input_shape)).astype(np.float32)
    calls = {str(i): call_of(net.fold(), x) for i, net in enumerate(nets)}
    return list(measure(calls, threads).values())


def call_of(net, x):
    """The call to time."""
    return lambda: net.predict(x)


def weights(net) -> int:
    """Numbers in the filters of all convolutions."""
    return sum(layer.weight.size for layer in chain.walk(net.layers) if isinstance(layer, fo.nn.Conv2d))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("decompositions", "networks"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    {"decompositions": decompositions, "networks": networks}[args.what](args.threads)
