"""What an installed package must do, with nothing but itself and its dependencies: ``python tests/smoke.py``.

It trains, predicts, writes and reads a model, forks, and keeps to a limit of threads. Run from the installed package
only: cibuildwheel and tests/wheel.py call it. A failure is an AssertionError.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

import fastopt as fo


def train(threads):
    """A trained network of the same bits for any number of threads, and its inputs."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2048, 32), dtype=np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    net = fo.nn.Sequential([fo.nn.Dense(32, 256, "relu"), fo.nn.BatchNorm(256), fo.nn.Dense(256, 2)], rng=0)
    trainer = fo.nn.Trainer(net, loss="cross_entropy", optimizer=fo.optim.Adam(net.parameters()))
    with fo.num_threads(threads):
        trainer.fit(X, y, epochs=20, batch_size=256)
    return net, X, y


def child_predicts(net, X, want):
    """Whether a forked child predicts the same bits."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if np.array_equal(net.predict(X), want) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def main():
    fo.show_config()
    net, X, y = train(threads=2)
    want = net.predict(X)
    assert np.mean(want.argmax(axis=1) == y) > 0.9
    assert np.array_equal(train(threads=1)[0].predict(X), want), "one thread and two give other bits"
    with tempfile.TemporaryDirectory() as folder:
        net.save(Path(folder, "net.safetensors"))
        assert np.array_equal(fo.nn.load(Path(folder, "net.safetensors")).predict(X), want)
    assert child_predicts(net, X, want), "a forked child gives other bits"
    assert np.array_equal(net.predict(X), want), "after a fork the parent gives other bits"
    if fo.config()["openmp"]:
        assert any(pool["user_api"] == "openmp" for pool in threadpool_info())
        with threadpool_limits(1, user_api="openmp"):
            assert fo.get_num_threads() == 1, "threadpoolctl does not reach the OpenMP of fastopt"
    print("smoke: passed")


if __name__ == "__main__":
    main()
