"""Handwritten digits on several ranks: what `make demo-mpi` runs, on two.

    mpiexec -n 2 python -m mpi4py examples/digits_mpi.py

Every rank has the whole network and takes its share of the batches. Rank 0 prints and saves.
"""

import time

from digits import accuracy, network, split

import fastopt as fo
from fastopt.parallel import DataParallel


def main():
    train, validation, (X_test, y_test) = split()
    net = network(seed=0)
    optimizer = fo.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3)
    parallel = DataParallel(fo.nn.Trainer(net, loss="cross_entropy", optimizer=optimizer, seed=0))
    ranks, first = parallel.comm.size, parallel.comm.rank == 0

    start = time.perf_counter()
    history = parallel.fit(*train, epochs=100, batch_size=32 // ranks, validation=validation, patience=10)
    seconds = time.perf_counter() - start

    if first:
        each = seconds / len(history["loss"])
        print(f"{ranks} ranks, {fo.get_num_threads()} threads each; {each * 1e3:.1f} ms an epoch")
        print(f"validation loss {history.best_loss:.4f} in epoch {history.best_epoch + 1} of {len(history['loss'])}")
        print(f"test accuracy {accuracy(net, X_test, y_test):.4f}")
    parallel.save("digits_mpi.safetensors")
    if first:
        print("wrote digits_mpi.safetensors, from which any number of ranks can go on")


if __name__ == "__main__":
    main()
