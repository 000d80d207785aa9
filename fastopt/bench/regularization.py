"""A training step whose weights are penalized or bounded; the yardstick `plain` is the same step of free weights."""

from collections.abc import Iterator

from fastopt.bench._cases import Case
from fastopt.bench._networks import batch, our_net, our_step, title

OPTIONS = {"l1": 1e-4, "l2": 1e-4, "max_norm": 3.0}


def cases() -> Iterator[Case]:
    for option, value in OPTIONS.items():
        yield step_case([784, 256, 128, 10], 128, **{option: value})


def step_case(widths, n, **options) -> Case:
    def ours(x, y):
        return our_step(our_net(widths, **options), x, y)

    def plain(x, y):
        return our_step(our_net(widths), x, y)

    what = f"step {title(widths)}, batch {n}, {', '.join(options)}"
    return Case(what, batch(widths, n), ours, yardsticks={"plain": plain})
