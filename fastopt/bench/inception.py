"""Convolutional networks: inference by Inception-v1, and a training step of one like LeNet.

Inception-v1 is folded, and the peers take the folded weights: torch, too, runs convolutions into which batch norm has
been absorbed.
"""

from collections.abc import Callable, Iterator

import numpy as np

import fastopt as fo
from fastopt.bench._cases import Case, random
from fastopt.bench._models import torch_module
from fastopt.bench._networks import IMAGE_PEERS, channels_first, inference_case, jax_step, our_step, torch_step
from fastopt.bench._peers import one_thread_jax

# multiply-adds of an image and weights without biases, by nn.summary
MULTIPLY_ADDS, WEIGHTS = 1_582_671_872, 6_990_272
LENET = {"conv 1": (460_800, 800), "conv 2": (3_276_800, 51_200), "dense": (264_704, 264_704)}


def cases() -> Iterator[Case]:
    for n in (1, 16):
        yield predict_case(n)
    yield step_case(32)
    yield predict_case(4).alone()
    yield step_case(128).alone()


def predict_case(n) -> Case:
    work = (n * MULTIPLY_ADDS, WEIGHTS)
    what, family = f"predict inception_v1, batch {n}", "predict inception_v1"
    return inference_case(what, fo.nn.models.inception_v1, (n, 224, 224, 3), IMAGE_PEERS, *work, family)


def step_case(n) -> Case:
    """One step with Adam of the LeNet-like network: forward, cross-entropy, backward, update."""

    def ours(x, y):
        return our_step(fo.nn.models.lenet(), x, y)

    def torch(x, y):
        return torch_step(torch_module(fo.nn.models.lenet()), channels_first(x), y)

    def torch_nhwc(x, y):
        import torch

        net = torch_module(fo.nn.models.lenet()).to(memory_format=torch.channels_last)
        return torch_step(net, np.moveaxis(x, -1, 1), y)

    def jax(x, y):
        jax = one_thread_jax()
        params = [jax.numpy.array(a) for a in fo.nn.models.lenet().parameters()]
        return jax_step(params, lenet_loss(), x, y)

    def setup():
        return random(n, 28, 28, 1), np.arange(n) % 10

    work, weights = (sum(column) for column in zip(*LENET.values(), strict=True))
    flops = 2 * n * (3 * work - LENET["conv 1"][0])  # the input needs no gradient
    peers = {"torch": torch, "torch nhwc": torch_nhwc, "jax": jax}
    return Case(f"step lenet, batch {n}", setup, ours, peers, flops, 7 * weights, family="training step of lenet")


def lenet_loss() -> Callable:
    """Cross-entropy of fo.nn.models.lenet() in JAX; filters (out, height, width, in)."""
    jax = one_thread_jax()
    import optax

    def convolution(x, weight, bias):
        layouts = ("NHWC", "OHWI", "NHWC")
        y = jax.nn.relu(jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=layouts) + bias)
        n, height, width, channels = y.shape  # XLA differentiates this maximum faster than its reduce_window
        return y.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))

    def loss(params, x, y):
        x = convolution(x, *params[:2])
        x = convolution(x, *params[2:4])
        x = jax.nn.relu(x.reshape(len(x), -1) @ params[4].T + params[5])
        return optax.softmax_cross_entropy_with_integer_labels(x @ params[6].T + params[7], y).mean()

    return loss
