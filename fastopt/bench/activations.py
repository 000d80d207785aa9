"""functional.activation over a whole array."""

from collections.abc import Iterator

from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms
from fastopt.bench._peers import one_thread_jax

NAMES = ("relu", "tanh", "sigmoid", "gelu", "silu", "softmax")


def cases() -> Iterator[Case]:
    for n in (1_000, 100_000):
        for name in NAMES:
            yield activation_case(name, n)
    for name in NAMES:
        yield activation_case(name, 100_000, "float64").alone()


def activation_case(name, n, dtype="float32") -> Case:
    """n elements, in rows of 100."""

    def ours(x, y):
        return lambda: F.activation(x, name, y)

    def torch(x, y):
        from torch import from_numpy
        from torch.nn import functional

        call, t, more = getattr(functional, name), from_numpy(x), {"dim": -1} if name == "softmax" else {}
        return lambda: call(t, **more)

    def jax(x, y):
        jax, more = one_thread_jax(), {"approximate": False} if name == "gelu" else {}
        function = getattr(jax.numpy, name) if name == "tanh" else getattr(jax.nn, name)
        call, t = jax.jit(lambda t: function(t, **more)), jax.numpy.asarray(x)
        return lambda: call(t).block_until_ready()

    shape, peers = (n // 100, 100), {"torch": torch, "jax": jax}
    return Case(named(f"{name}, {n} elements", dtype), randoms(shape, shape, dtype=dtype), ours, peers, 0, 2 * n, dtype)
