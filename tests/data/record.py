"""Writes the files of earlier versions in this folder, and what they give: run with the version to be recorded.

    python tests/data/record.py write                       # once
    python tests/data/record.py write_objects               # once: pickles of what is no network
    FASTOPT_ISA=v3 python tests/data/record.py predict      # at every instruction-set level

The data lie far from zero beside their deviations: float32 rounds them, which a version that did not would show.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import fastopt as fo

FOLDER = Path(__file__).parent
DTYPES = ("float32", "float64")
FRONTS = {"standardize": lambda: fo.nn.Standardize(3), "whiten": lambda: fo.nn.Whiten(3, "pca")}
ROWS = 24


def data():
    """x (n, 3), targets (n, 2)."""
    return [1e3, -50.0, 0.1] + near(3) * [0.5, 3.0, 1e-3], near(2)


def near(c):
    """Numbers (n, c) from -1.25 to 1.25, without a function whose last bit may differ elsewhere."""
    t = np.arange(ROWS * c).reshape(ROWS, c)
    return ((7 * t * t + 3 * t) % 11 - 5) / 4


def network(front, dtype):
    net, start = (
        fo.nn.Sequential(layers(front, init), rng=0, dtype=np.dtype(dtype))
        for init in (None, "he")  # what relu chose when the files were recorded
    )
    for a, first in zip(net.parameters(), start.parameters(), strict=True):
        a[...] = first
    return net


def layers(front, init):
    return [
        FRONTS[front](),
        fo.nn.Dense(3, 4, "tanh"),
        fo.nn.BatchNorm(4, activation="silu"),
        fo.nn.Dropout(0.25),
        fo.nn.Residual([fo.nn.Dense(4, 4, "relu", init=init), fo.nn.Dropout(0.25), fo.nn.BatchNorm(4)]),
        fo.nn.Dense(4, 2),
    ]


def new_trainer(net):
    return fo.nn.Trainer(net, "mse", fo.optim.Adam(net.parameters(), lr=0.01), seed=3)


def continued(trainer):
    """All arrays after the rest of the interrupted epoch and another."""
    x, y = data()
    trainer.fit(x, y, epochs=2, batch_size=5)
    return np.concatenate([np.ravel(a).astype(np.float64) for a in trainer.net.parameters()])


def canary():
    """Kernels that read no file: whether this build computes as the one that recorded did."""
    outputs = []
    for x in (near(3).astype(np.float32), near(3)):
        hidden = fo.functional.batch_norm(fo.functional.dense(x, x[:4], None, activation="tanh"), activation="silu")[0]
        outputs += [hidden, fo.functional.dense_backward(hidden, x, x[:4], z=hidden, activation="relu")]
    return np.concatenate([a.ravel() for a in outputs], dtype=np.float64)


def results():
    """What every file gives, by name."""
    x, _ = data()
    found = {"canary": canary()}
    for dtype in DTYPES:
        for front in FRONTS:
            name = f"{front}-{dtype}"
            net = fo.nn.load(FOLDER / f"{name}.safetensors")
            found[f"{name}.predict32"] = net.predict(x.astype(np.float32))
            found[f"{name}.predict64"] = net.predict(x)
            found[f"{name}.grad"] = np.concatenate([g.ravel() for g in net.value_and_grad(x, data()[1], "mse")[1]])
            trainer = new_trainer(network(front, dtype))
            trainer.resume(FOLDER / f"{name}.run.safetensors")
            found[f"{name}.resumed"] = continued(trainer)
    return found


def write():
    x, y = data()
    for dtype in DTYPES:
        for front in FRONTS:
            trainer = new_trainer(network(front, dtype))
            trainer.fit(x, y, epochs=1, batch_size=5)
            trainer.net.save(FOLDER / f"{front}-{dtype}.safetensors")
            (FOLDER / f"{front}-{dtype}.pickle").write_bytes(pickle.dumps(trainer.net))
            interrupt_second_batch(trainer)
            trainer.save(FOLDER / f"{front}-{dtype}.run.safetensors")


def interrupt_second_batch(trainer):
    fo.nn.trainer.SLICE, ready, calls = 0.0, trainer.optimizer.prepare, []

    def stop():
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        ready()

    trainer.optimizer.prepare = stop
    try:
        trainer.fit(*data(), batch_size=5)
    except KeyboardInterrupt:
        del trainer.optimizer.prepare


def objects():
    """An object of every public class that is pickled by where it stands, networks apart."""
    s = fo.schedules
    inner = {"value": 0.5, "steps": 4, "every": 3, "power": 0.5, "rate": 0.1, "final": 0.125}
    kinds = [
        getattr(s, name) for name in s.__all__ if name not in ("RobbinsMonro", "Schedule", "from_config", "Warmup")
    ]
    found = {kind.__name__: kind(**{k: v for k, v in inner.items() if k in kind.__match_args__}) for kind in kinds} | {
        "Warmup": s.Warmup(2, s.Power(0.5, 0.5)),
        "RobbinsMonro": s.Power(0.5, 0.5).robbins_monro(),
    }
    found["ReduceOnPlateau"].update(1.0)
    for name in fo.optim.__all__:
        if name not in ("Optimizer", "PythonRule", "NewtonCG", "groups"):
            found[name] = getattr(fo.optim, name)([near(3)], weight_decay=0.125, ema_decay=0.5)
            found[name].step([near(3)])
    x, y = data()
    for family in ("gaussian", "binomial", "multinomial", "poisson"):
        found[f"glm {family}"] = fo.newton.glm(x, np.abs(y[:, 0]) * 4 // (3 if family == "binomial" else 1), family)
    found["losses"] = [fo.nn.CrossEntropy(0.125), fo.nn.Huber(2.0)]
    found["NewtonCG"] = fo.nn.Trainer(fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0), "mse", "newtoncg")
    found["NewtonCG"].step(near(3), y)
    found["Trainer"] = stopped_early()
    return found


def stopped_early():
    """A trainer whose fit with early stopping was interrupted."""

    def stop(trainer, history):
        if trainer.epoch == 3:
            raise KeyboardInterrupt

    trainer = new_trainer(network("standardize", "float64"))
    try:
        continue_stopped(trainer, stop)
    except KeyboardInterrupt:
        return trainer


def continue_stopped(trainer, callbacks=()):
    x, y = data()
    return trainer.fit(x, y, epochs=6, batch_size=5, validation=(x, y), patience=3, callbacks=callbacks)


def write_objects():
    (FOLDER / "objects.pickle").write_bytes(pickle.dumps(objects()))


def predict():
    path, level = FOLDER / "recorded.safetensors", fo.config()["isa"]
    known = load_file(path) if path.exists() else {}
    save_file({**known, **{f"{level}.{name}": a for name, a in results().items()}}, path)


if __name__ == "__main__":
    {"write": write, "write_objects": write_objects, "predict": predict}[sys.argv[1]]()
