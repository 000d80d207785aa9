"""Training of whole networks: steps with Adam (forward, cross-entropy, backward, update), and a fit."""

import warnings
from collections.abc import Iterator

import fastopt as fo
from fastopt.bench._cases import Case
from fastopt.bench._networks import (
    LR,
    batch,
    jax_loss,
    jax_params,
    jax_step,
    our_net,
    our_step,
    title,
    torch_net,
    torch_step,
    weights_of,
)

DIGITS = [64, 128, 64, 10]
COMPARED = (
    ([64, 64, 10], 32),
    ([784, 256, 10], 32),
    ([784, 256, 128, 10], 128),
    ([784, 512, 512, 10], 1),
    ([784, 1024, 1024, 10], 128),
    (DIGITS, 32),
)


def cases() -> Iterator[Case]:
    for widths, n in COMPARED:
        yield step_case(widths, n)
    yield fit_case(DIGITS, 1797, 32, epochs=5)._replace(family="fit")  # as many rows as the digits have
    for widths in ([64, 64, 10], DIGITS, [784, 256, 128, 10], [784, 512, 512, 10]):
        for n in (1, 32, 128):
            if (widths, n) not in COMPARED:
                yield step_case(widths, n).alone()


def step_case(widths, n) -> Case:
    def ours(x, y):
        return our_step(our_net(widths), x, y)

    def torch(x, y):
        return torch_step(torch_net(widths), x, y)

    def jax(x, y):
        return jax_step(jax_params(widths), jax_loss(), x, y)

    def sklearn(x, y):
        net = sklearn_net(widths, n, LR, epochs=1)
        net.partial_fit(x, y, classes=range(10))
        return lambda: net.partial_fit(x, y)

    weights = weights_of(widths)
    flops = 2 * n * (3 * sum(weights) - weights[0])  # the input needs no gradient
    peers = {"torch": torch, "jax": jax} | ({"sklearn": sklearn} if widths == DIGITS else {})
    what, moved = f"step {title(widths)}, batch {n}", 7 * sum(weights)
    return Case(what, batch(widths, n), ours, peers, flops, moved, family="training step with Adam")


def fit_case(widths, rows, n, epochs) -> Case:
    """Networks made and trained for some epochs."""

    def ours(x, y):
        def call():
            net = our_net(widths)
            trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()))
            trainer.fit(x, y, epochs=epochs, batch_size=n)

        return call

    def sklearn(x, y):
        sklearn_net(widths, n, 1e-3, epochs)

        def call():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it would rather train longer
                sklearn_net(widths, n, 1e-3, epochs).fit(x, y)

        return call

    what = f"fit {title(widths)}, batch {n}, {epochs} epoch{'s' * (epochs > 1)} of {rows}"
    return Case(what, batch(widths, rows), ours, {"sklearn": sklearn})


def sklearn_net(widths, n, lr, epochs):
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        widths[1:-1],
        batch_size=n,
        alpha=0.0,
        learning_rate_init=lr,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=10_000,
        random_state=0,
    )
