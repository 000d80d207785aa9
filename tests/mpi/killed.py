"""A job in which some workers are killed: killed.py DATA FILE STALENESS SERVERS EPOCHS SEED [RANK WHEN ...]

Every rank trains on the digits in DATA; rank 0 saves FILE after each epoch, and at the end prints what it has as JSON.
Each RANK is killed at WHEN, in epochs: at 7.4 in the eighth.
"""

import json
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np

import fastopt as fo
from fastopt.parallel import ParameterServer


def main(data, path, staleness, servers, epochs, seed, *kills):
    with np.load(data) as arrays:
        X, y, X_test, y_test = (arrays[name] for name in ("X", "y", "X_test", "y_test"))
    net = fo.nn.Sequential([fo.nn.Dense(64, 64, activation="relu"), fo.nn.Dense(64, 10)], rng=int(seed))
    bound = None if staleness == "None" else int(staleness)
    server = ParameterServer(
        net, fo.optim.Adagrad(net.parameters(), lr=0.05), None, int(servers), bound, seed=int(seed)
    )
    rank = server.comm.rank
    when = {int(who): float(epochs) for who, epochs in zip(kills[::2], kills[1::2], strict=True)}.get(rank, np.inf)
    began, killing = [time.perf_counter()], []

    def each_epoch(trainer, history):
        if rank == 0:
            trainer.save(path)
        for timer in killing:  # this epoch was quicker than the last
            timer.join()
        began.append(time.perf_counter())
        if len(history["loss"]) == when // 1:
            after = (began[-1] - began[-2]) * (when % 1)
            killing.append(threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)))
            killing[0].start()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = server.fit(X, y, int(epochs), 16, callbacks=each_epoch)
    again = server.fit(X, y, 1, 16)  # the survivors can go on
    if rank == 0:
        print(
            json.dumps(
                {
                    "loss": history["loss"],
                    "gradients": sum(history.staleness.values()),
                    "again": sum(again.staleness.values()),
                    "said": [str(warning.message) for warning in said],
                    "ranks": server.comm.size,
                    "accuracy": fo.metrics.accuracy(y_test, net.predict(X_test)),
                }
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
