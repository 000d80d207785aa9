"""A small call of every public module, for tests of what runs beside what: forks, interrupts, threads.

Each is a function of nothing that gives the same bytes every time, in any thread and any process. The sizes are those
from which on kernels use a team of two and the bits of BLAS depend on its threads.
"""

import os
import tempfile

import numpy as np
from threadpoolctl import threadpool_info

import fastopt as fo

_rng = np.random.default_rng(0)
D, N, N_IN = 100, 1500, 20
INDEFINITE = _rng.normal(size=(D, D))
INDEFINITE += INDEFINITE.T
DEFINITE = INDEFINITE @ INDEFINITE + np.eye(D)
GRADIENT = _rng.normal(size=D)
X = _rng.normal(size=(N, N_IN))
ROWS, LABELS = X.astype(np.float32), (X[:, 0] + _rng.normal(size=N) > 0).astype(np.int64)
WEIGHT = _rng.normal(size=(64, N_IN)).astype(np.float32)


def network(**options):
    layers = [fo.nn.Dense(N_IN, 64, activation="relu"), fo.nn.Dense(64, 2)]
    return fo.nn.Sequential(layers, rng=0, **options)


def trainer(net):
    return fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()))


class Quartic:
    """½ x·S x + ¼ Σ x⁴ for an indefinite S: by steps and, at saddles, by eigenvectors."""

    def value(self, x):
        return 0.5 * float(np.einsum("i,ij,j", x, INDEFINITE, x)) + 0.25 * float(np.sum(x**4))

    def gradient(self, x):
        return np.einsum("ij,j->i", INDEFINITE, x) + x**3

    def hessian(self, x):
        return INDEFINITE + np.diag(3 * x**2)


_predictor = network().calibrate(ROWS)
_fit = fo.newton.glm(X, LABELS)


def newton_step():
    cholesky = fo.newton.step(DEFINITE, GRADIENT)
    return cholesky.delta.tobytes() + fo.newton.step(INDEFINITE, GRADIENT, method="saddle_free").delta.tobytes()


def glm():
    return fo.newton.glm(X, LABELS).coef.tobytes()


def glm_on_few_rows():
    return fo.newton.glm(np.hstack([X, X**2, X**3, X**4, X**5])[:80], LABELS[:80]).coef.tobytes()


def glm_within_bounds():
    design = fo.newton.Design(X, codes=np.arange(2 * N).reshape(N, 2) % 5)
    return fo.newton.glm(design, LABELS, bounds=(-0.1, 0.1)).coef.tobytes()


def glm_results():
    fit = fo.newton.glm(X, np.arange(N) % 3, "multinomial")
    return fit.covariance.tobytes() + np.float64(fit.condition_number).tobytes() + _fit.predict_proba(X).tobytes()


def minimize():
    exact = fo.newton.minimize(Quartic(), np.full(D, 0.1), max_iter=3).x
    return exact.tobytes() + fo.newton.minimize(Quartic(), np.full(D, 0.1), "newton_cg", max_iter=3).x.tobytes()


def spectrum():
    net = fo.nn.Sequential([fo.nn.Dense(N_IN, 16, activation="tanh"), fo.nn.Dense(16, 2)], rng=0, dtype=np.float64)
    return fo.newton.spectrum(net, X[:200], LABELS[:200]).eigenvalues.tobytes()


def fit():
    net = network()
    trainer(net).fit(ROWS, LABELS, epochs=1, batch_size=500)
    return net.predict(ROWS).tobytes()


def newton_cg():
    net = network(dtype=np.float64)
    fo.nn.Trainer(net, "cross_entropy", fo.optim.NewtonCG(net.parameters(), max_iter=5)).step(X, LABELS)
    return net.predict(X).tobytes()


def predict():
    return _predictor.predict(ROWS).tobytes()


def whiten():
    net = fo.nn.Sequential([fo.nn.Whiten(N_IN), fo.nn.Dense(N_IN, 64)], rng=0, dtype=np.float64).calibrate(X)
    return net.layers[0].weight.tobytes() + net.fold().predict(X).tobytes()


def orthogonal():
    return fo.nn.Sequential([fo.nn.Dense(200, 200, init="orthogonal")], rng=0).layers[0].weight.tobytes()


def functional():
    return fo.functional.dense(ROWS, WEIGHT, activation="gelu").tobytes()


def optimizer():
    param, grad = np.ones(300_000, np.float32), np.linspace(-1, 1, 300_000, dtype=np.float32)
    lr = fo.schedules.Exponential(0.1, 0.9)
    optimizer = fo.optim.SGD([param], lr=lr, momentum=0.9, nesterov="interim", ema_decay=0.9, max_norm=1.0)
    optimizer.step([grad])
    with optimizer.interim_point():
        optimizer_at = param[:5].tobytes()
    with optimizer.averaged():
        return optimizer_at + param.tobytes()


def scores():
    return np.float64(fo.metrics.r2_score(np.linspace(0, 1, 20_000), np.linspace(0, 1, 20_000) ** 2)).tobytes()


def files():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        _predictor.save(path)
        return fo.nn.load(path).predict(ROWS).tobytes()


CALLS = {
    call.__name__: call
    for call in (
        newton_step,
        glm,
        glm_on_few_rows,
        glm_within_bounds,
        glm_results,
        minimize,
        spectrum,
        fit,
        newton_cg,
        predict,
        whiten,
        orthogonal,
        functional,
        optimizer,
        scores,
        files,
    )
}


def results() -> dict[str, bytes]:
    return {name: call() for name, call in CALLS.items()}


def counts() -> tuple:
    """Threads of every pool in the process, and of a call of ours."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}, fo.get_num_threads()
