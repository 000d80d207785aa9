"""Mean loss and its gradient."""

from collections.abc import Iterator

import numpy as np

from fastopt import functional as F
from fastopt.bench._cases import Case, named, random
from fastopt.bench._peers import one_thread_jax

# how torch and optax spell a loss, whose targets are classes, probabilities or values
LOSSES = {
    "cross_entropy": ("cross_entropy", lambda optax: optax.softmax_cross_entropy_with_integer_labels),
    "mse": ("mse_loss", lambda optax: optax.squared_error),
    "mae": ("l1_loss", lambda optax: lambda z, t: abs(z - t)),
    "huber": ("huber_loss", lambda optax: optax.huber_loss),
    "binary_cross_entropy": ("binary_cross_entropy_with_logits", lambda optax: optax.sigmoid_binary_cross_entropy),
}
SHAPES = ((128, 10), (1024, 1000))


def cases() -> Iterator[Case]:
    for name in LOSSES:
        for shape in SHAPES:
            yield loss_case(name, *shape)
    for name in LOSSES:
        for shape in SHAPES:
            yield loss_case(name, *shape, "float64").alone()


def loss_case(name, n, n_out, dtype="float32") -> Case:
    in_torch, in_optax = LOSSES[name]

    def setup():
        z, values = (random(n, n_out, dtype=dtype) for _ in range(2))
        values = values[::-1].copy()
        targets = {"cross_entropy": np.arange(n) % n_out, "binary_cross_entropy": (values > 0).astype(dtype)}
        return z, targets.get(name, values)

    def ours(z, targets):
        function, grad = getattr(F, name), np.empty_like(z)
        return lambda: function(z, targets, grad)

    def torch(z, targets):
        import torch

        function = getattr(torch.nn.functional, in_torch)
        leaf, t = torch.tensor(z, requires_grad=True), torch.from_numpy(targets)

        def call():
            leaf.grad = None
            function(leaf, t).backward()

        return call

    def jax(z, targets):
        jax = one_thread_jax()
        import optax

        function = in_optax(optax)
        call = jax.jit(jax.value_and_grad(lambda z, t: function(z, t).mean()))
        a, t = jax.numpy.asarray(z), jax.numpy.asarray(targets)
        return lambda: jax.block_until_ready(call(a, t))

    what, peers = named(f"{name} and gradient {n}x{n_out}", dtype), {"torch": torch, "jax": jax}
    moved = n * n_out * (2 if name == "cross_entropy" else 3)
    return Case(what, setup, ours, peers, moved=moved, dtype=dtype)
