"""Handwritten digits: train, save, load and predict. What `make demo` runs.

The 1797 digits of scikit-learn are split into training, validation and test rows. Early
stopping watches the validation rows; nothing sees the test rows before the end.
Writes digits.safetensors (the network) and digits.png (loss and accuracy by epoch).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastopt as fo


def split():
    """(X, y) for training, validation and test: 60, 20 and 20 per cent of every class."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    X_rest, X_test, y_rest, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    X_train, X_val, y_train, y_val = train_test_split(X_rest, y_rest, test_size=0.25, stratify=y_rest, random_state=0)
    return (X_train, y_train), (X_val, y_val), (X_test, y_test)


def network(seed):
    block = [fo.nn.Dense(256, 64, activation="relu"), fo.nn.Dense(64, 256)]
    layers = [
        fo.nn.Standardize(64),
        fo.nn.Dense(64, 256, activation="relu"),
        fo.nn.Residual(block),
        fo.nn.Dense(256, 10),
    ]
    return fo.nn.Sequential(layers, rng=seed)


def accuracy(net, X, y):
    return float(np.mean(net.predict(X).argmax(axis=1) == y))


def draw(history, path):
    """Loss and accuracy by epoch, the epoch that early stopping kept marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epochs = np.arange(1, len(history["loss"]) + 1)
    best = history.best_epoch
    panels = (("Loss (cross-entropy)", "loss", "val_loss"), ("Accuracy", "accuracy", "val_accuracy"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for ax, (title, training, validation) in zip(axes, panels, strict=True):
        ax.plot(epochs, history[training], color="#1f77b4", label="training")
        ax.plot(epochs, history[validation], color="#ff7f0e", label="validation")
        ax.axvline(epochs[best], color="0.6", linestyle=":", label=f"kept: epoch {epochs[best]}", zorder=0)
        ax.set(title=title, xlabel="Epoch", xlim=(1, len(epochs)))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[1].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    axes[1].set_ylim(top=1.005)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the order of rows")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="where the two files go")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train, validation, (X_test, y_test) = split()
    net = network(args.seed)
    optimizer = fo.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3)
    trainer = fo.nn.Trainer(net, loss="cross_entropy", optimizer=optimizer, max_batch=32, seed=args.seed)

    def training_accuracy(trainer, history):
        history.setdefault("accuracy", []).append(accuracy(net, *train))

    start = time.perf_counter()
    history = trainer.fit(
        *train,
        epochs=100,
        batch_size=32,
        validation=validation,
        patience=15,
        callbacks=training_accuracy,
        progress=True,
    )
    seconds = time.perf_counter() - start
    epochs = len(history["loss"])
    print(f"trained {epochs} epochs in {seconds:.2f} s, {epochs * len(train[0]) / seconds:,.0f} rows/s")
    print(f"kept epoch {history.best_epoch + 1}, the lowest validation loss")
    print(f"test accuracy {accuracy(net, X_test, y_test):.4f} on {len(y_test)} rows not seen before")

    net.save(args.out / "digits.safetensors")
    draw(history, args.out / "digits.png")
    print(f"wrote {args.out / 'digits.safetensors'} and {args.out / 'digits.png'}")

    again = fo.nn.load(args.out / "digits.safetensors")
    proba = again.predict_proba(X_test[:8])
    print(
        "loaded back:  predicted",
        *proba.argmax(axis=1),
        " true",
        *y_test[:8],
        f" least certain {proba.max(axis=1).min():.2f}",
    )


if __name__ == "__main__":
    main()
