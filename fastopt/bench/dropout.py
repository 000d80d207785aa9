"""functional.dropout and dropout_backward."""

from collections.abc import Iterator

from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms
from fastopt.bench._peers import one_thread_jax


def cases() -> Iterator[Case]:
    for n, features in ((32, 256), (128, 512), (1000, 1000)):
        yield both_case(n, features)
    for n, features in ((32, 256), (1000, 1000)):
        for dtype in ("float32", "float64"):
            for function in (F.dropout, F.dropout_backward):
                yield single_case(function, n, features, dtype)


def both_case(n, features) -> Case:
    """Forward, and backward of a gradient that is there."""

    def ours(x, dy, y, dx):
        def call():
            F.dropout(x, 0.3, 1, 2, y)
            F.dropout_backward(dy, 0.3, 1, 2, dx)

        return call

    def torch(x, dy, *_):
        import torch

        leaf, t, function = torch.tensor(x, requires_grad=True), torch.from_numpy(dy), torch.nn.functional.dropout

        def call():
            leaf.grad = None
            function(leaf, 0.3).backward(t)

        return call

    def jax(x, dy, *_):
        jax = one_thread_jax()

        def both(x, dy, key):
            keep = jax.random.bernoulli(key, 0.7, x.shape)
            y, back = jax.vjp(lambda x: jax.numpy.where(keep, x / 0.7, 0), x)
            return y, *back(dy)

        call, a, b, key = jax.jit(both), jax.numpy.asarray(x), jax.numpy.asarray(dy), jax.random.key(0)
        return lambda: jax.block_until_ready(call(a, b, key))

    what, peers = f"dropout and backward {n}x{features}", {"torch": torch, "jax": jax}
    return Case(what, randoms(*[(n, features)] * 4), ours, peers, moved=4 * n * features)


def single_case(function, n, features, dtype) -> Case:
    """Forward or backward."""

    def ours(x, out):
        return lambda: function(x, 0.3, 1, 2, out)

    what = named(f"{function.__name__} {n}x{features}", dtype)
    return Case(what, randoms((n, features), (n, features), dtype=dtype), ours, dtype=dtype)
