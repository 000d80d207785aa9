"""Inference by a network and training steps, ours and the peers'; networks of dense layers with ReLU between them.

Learning rates of training steps are tiny, so that thousands of steps on one batch do not end in denormals.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

import fastopt as fo
from fastopt.bench._cases import Case, random, randoms
from fastopt.bench._models import torch_module
from fastopt.bench._peers import one_thread_jax, onnx_session, openvino_request

LR = 1e-7
ROW_PEERS = ("torch", "onnxruntime", "openvino")
IMAGE_PEERS = ("torch", "torch nhwc", "onnxruntime", "openvino", "openvino nhwc")


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
    return torch_module(our_net(widths, final))


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


def jax_step(params, loss, x, y) -> Callable:
    """A step with Adam, whose arrays are updated in place; params come from `one_thread_jax`."""
    jax = one_thread_jax()
    import optax

    x, y, rule = jax.numpy.array(x), jax.numpy.array(y), optax.adam(LR)
    held = [params, rule.init(params)]

    def step(params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    compiled = jax.jit(step, donate_argnums=(0, 1))

    def call():
        held[:] = jax.block_until_ready(compiled(*held, x, y))[:2]

    return call


# ---------------------------------------------------------------- inference


def predict_case(what, widths, n, final="identity", family="") -> Case:
    """Inference of n rows by a network of dense layers."""
    weights = sum(weights_of(widths))
    moved = weights + n * (widths[0] + widths[-1])
    return inference_case(what, lambda: our_net(widths, final), (n, widths[0]), ROW_PEERS, n * weights, moved, family)


def inference_case(what, make, shape, peers, multiply_adds, moved, family="") -> Case:
    """Inference of samples of this shape by a network folded for it, whose weights peers take over likewise.

    Images of a peer lie channels first, or last where its name says nhwc.
    """

    def ours(x):
        net = make().fold()
        return lambda: net.predict(x)

    def torch(x):
        import torch

        net, t = torch_module(make().fold()), torch.from_numpy(channels_first(x))
        return torch.inference_mode()(lambda: net(t))

    def torch_nhwc(x):
        import torch

        net = torch_module(make().fold()).to(memory_format=torch.channels_last)
        t = torch.from_numpy(x).permute(0, 3, 1, 2)
        return torch.inference_mode()(lambda: net(t))

    sides = {
        "torch": torch,
        "torch nhwc": torch_nhwc,
        "onnxruntime": lambda x: onnx_session(make().fold(), channels_first(x)),
        "openvino": lambda x: openvino_request(make().fold(), channels_first(x)),
        "openvino nhwc": lambda x: openvino_request(make().fold(), x, channels_last=True),
    }
    chosen = {name: sides[name] for name in peers}
    return Case(what, randoms(shape), ours, chosen, 2 * multiply_adds, moved, family=family)


def channels_first(x) -> np.ndarray:
    """Images (n, h, w, c) as (n, c, h, w); rows as they are."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))
