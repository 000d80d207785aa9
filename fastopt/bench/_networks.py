"""Networks of dense layers with ReLU between them: ours and the peers', to predict and to take a training step.

Learning rates of training steps are tiny, so that thousands of steps on one batch do not end in denormals.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

import fastopt as fo
from fastopt.bench._cases import Case, random, randoms
from fastopt.bench._peers import one_thread_jax, onnx_session

LR = 1e-7


def title(widths) -> str:
    return "-".join(map(str, widths))


def weights_of(widths) -> list[int]:
    """Weights of each layer, without biases."""
    return [a * b for a, b in pairwise(widths)]


def batch(widths, n, dtype="float32") -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A set-up that makes n rows and their classes, of 10."""
    return lambda: (random(n, widths[0], dtype=dtype), np.arange(n) % 10)


# ---------------------------------------------------------------- ours


def our_net(widths, final="identity", dtype="float32", **options) -> fo.nn.Sequential:
    *hidden, last = pairwise(widths)
    layers = [fo.nn.Dense(*pair, "relu", **options) for pair in hidden]
    return fo.nn.Sequential([*layers, fo.nn.Dense(*last, final, **options)], rng=0, dtype=dtype)


def our_step(net, x, y) -> Callable:
    adam = fo.optim.Adam(net.parameters(), lr=LR)
    trainer = fo.nn.Trainer(net, "cross_entropy", adam, max_batch=len(x))
    return lambda: trainer.step(x, y)


# ---------------------------------------------------------------- torch


def torch_net(widths, final="identity"):
    import torch

    layers = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*(layers if final == "relu" else layers[:-1]))


def torch_step(net, x, y) -> Callable:
    import torch

    x, y = torch.from_numpy(x), torch.from_numpy(y)
    adam = torch.optim.Adam(net.parameters(), lr=LR, fused=True)

    def call():
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        adam.step()

    return call


# ---------------------------------------------------------------- JAX


def jax_params(widths) -> list:
    """Weights and biases of our network of these widths."""
    jax = one_thread_jax()
    arrays = our_net(widths).parameters()
    return [(jax.numpy.array(w.T), jax.numpy.array(b)) for w, b in zip(arrays[::2], arrays[1::2], strict=True)]


def jax_loss() -> Callable:
    """Cross-entropy of such a network."""
    jax = one_thread_jax()
    import optax

    def loss(params, x, y):
        *hidden, (weight, bias) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, y).mean()

    return loss


# ---------------------------------------------------------------- inference


def predict_case(what, widths, n, final="identity") -> Case:
    """Inference of n rows by a network folded for it, as a session of ONNX Runtime is."""

    def ours(x):
        net = our_net(widths, final).fold()
        return lambda: net.predict(x)

    def torch(x):
        import torch

        net, t = torch_net(widths, final), torch.from_numpy(x)
        return torch.inference_mode()(lambda: net(t))

    def onnxruntime(x):
        session = onnx_session(our_net(widths, final))
        return lambda: session.run(None, {"x": x})

    weights = sum(weights_of(widths))
    moved = weights + n * (widths[0] + widths[-1])
    return Case(
        what, randoms((n, widths[0])), ours, {"torch": torch, "onnxruntime": onnxruntime}, 2 * n * weights, moved
    )
