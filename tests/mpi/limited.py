"""A job that trains a network of a few layers in limited memory; limited_memory.py starts it.

Prints what the training took, in bytes beyond what the interpreter, MPI and a small training take, and the losses.
"""

import json
import resource
import sys

import numpy as np

import fastopt as fo
from fastopt.parallel import DataParallel, Grid, column_parallel


def in_use() -> int:
    """Bytes of private memory that this process may write, which RLIMIT_DATA counts."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))


def training(grid, width):
    layers = [fo.nn.Dense(64, width, "relu"), fo.nn.Dense(width, width, "relu"), fo.nn.Dense(width, 10)]
    net = fo.nn.Sequential(column_parallel(layers, grid), rng=0)
    return DataParallel(fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=1e-3)), comm=grid)


rng = np.random.default_rng(0)
X, y = rng.normal(size=(64, 64)), rng.integers(0, 10, 64)
grid = Grid(model=int(sys.argv[2]))
training(grid, 64).fit(X, y, epochs=2)
base = in_use()
if len(sys.argv) > 3:
    limit = base + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
parallel = training(grid, int(sys.argv[1]))
losses = parallel.fit(X, y, epochs=2)["loss"]
taken = max(grid.comm.tell("memory", in_use() - base).ravel().tolist())
if grid.comm.rank == 0:
    print(json.dumps({"taken": int(taken), "losses": losses}))
