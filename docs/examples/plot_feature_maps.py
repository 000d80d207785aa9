"""
From where to what
==================

A convolutional network starts from many positions, each of which says little, and
ends with one that says what is seen: spatial information is replaced by semantic.
Here are the sizes of its feature maps, how well a digit can be told from each, and
the maps themselves.
"""

# %%
# Sizes
# -----
#
# The feature maps of Inception-v1, the last of each size: as high as the map, as wide
# as it has channels. No weight is needed to know them.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastopt as fo


def shapes(net):
    """The shape of a sample before the first layer, and after each."""
    found = [net.input_shape]
    for layer in net.layers:
        found.append(layer.output_shape(found[-1]))
    return found


inception = shapes(fo.nn.models.inception_v1(batch_norm=False))
maps = [shape for shape in inception if len(shape) == 3]
last = {height: channels for height, _, channels in maps}
last[1] = inception[-2][-1]

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
left = 0
for height, channels in last.items():
    axes.bar(left, height, channels, align="edge", color="#56B4E9", ec="k")
    label = f"{height}×{height}\n{channels}"
    axes.text(
        left + channels / 2, height + 4, label, ha="center", fontsize=9
    )
    left += channels + 220
axes.set(ylabel="pixels", xlabel="channels, side by side", ylim=(0, 270))
axes.set_title("Feature maps of Inception-v1")
axes.set(xticks=[], xlim=(-400, left + 100))
plt.show()

# %%
# Inception-v1 takes 150 528 numbers that each tell the color of one pixel, and makes
# 1 024 of them that tell what the image shows, but hardly where.
#
# What and where
# --------------
#
# A small network learns digits of 8×8 pixels that stand anywhere in 16×16. After each
# of its maps two linear models are asked about images that training has not seen. One
# tells what digit it is, from the averages of channels over all positions. The other
# tells in which column it stands, from the averages of columns over rows and channels.
X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
offsets = rng.integers(0, 9, (len(X), 2))
images = np.zeros((len(X), 16, 16, 1), np.float32)
for image, digit, (i, j) in zip(images, X, offsets, strict=True):
    image[i : i + 8, j : j + 8, 0] = digit.reshape(8, 8) / 16
train, test = slice(0, 1300), slice(1300, None)

layers = [
    fo.nn.Conv2d(1, 16, 3, padding="same", activation="relu"),
    fo.nn.MaxPool2d(2),
    fo.nn.Conv2d(16, 32, 3, padding="same", activation="relu"),
    fo.nn.MaxPool2d(2),
    fo.nn.Conv2d(32, 64, 3, padding="same", activation="relu"),
    fo.nn.MaxPool2d(2),
    fo.nn.Conv2d(64, 128, 2, activation="relu"),
    fo.nn.Flatten(),
    fo.nn.Dense(128, 10),
]
net = fo.nn.Sequential(layers, input_shape=(16, 16, 1), rng=0)
adam = fo.optim.Adam(net.parameters())
trainer = fo.nn.Trainer(net, loss="cross_entropy", optimizer=adam)
history = trainer.fit(images[train], y[train], epochs=15)

# %%
# ``after`` gives the feature maps behind the first layers of a network, which share
# their weights with it.


def after(k):
    first = fo.nn.Sequential(net.layers[:k], input_shape=net.input_shape)
    return first.predict(images)


def reads(features, target, family):
    """How well a linear model tells the target in the test images: accuracy, or R²."""
    fit = fo.newton.glm(features[train], target[train], family, l2=1e-2)
    found = fit.predict(features[test])
    if family == "multinomial":
        return fo.metrics.accuracy(target[test], found)
    return fo.metrics.r2_score(target[test], found)


stages = {"image": 0, "conv 1": 1, "pool 1": 2, "conv 2": 3, "pool 2": 4}
stages |= {"conv 3": 5, "pool 3": 6, "conv 4": 7}
seen = {name: after(k) if k else images for name, k in stages.items()}
what, where = [], []
for maps in seen.values():
    maps = maps.astype(float)
    what.append(reads(maps.mean(axis=(1, 2)), y, "multinomial"))
    column = maps.mean(axis=(1, 3))
    where.append(reads(column, offsets[:, 1].astype(float), "gaussian"))

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
names = [
    f"{name}\n{maps.shape[1]}×{maps.shape[2]}×{maps.shape[3]}"
    for name, maps in seen.items()
]
axes.plot(
    names, what, "o-", color="#D55E00", label="what: accuracy of the digit"
)
axes.plot(
    names, where, "s-", color="#0072B2", label="where: R² of its column"
)
axes.tick_params(axis="x", labelsize=8)
axes.set(
    ylim=(-0.05, 1.05), title="What a linear model reads from feature maps"
)
axes.grid(alpha=0.3)
axes.legend(loc="lower center")
plt.show()

# %%
# What the digit is cannot be told from the image's average, but from the second
# convolution on. Where it stands is known until the last convolution takes all positions
# together.
#
# The maps of one image
# ---------------------
#
# The six strongest channels of each stage, for the first test image. The first maps
# still show a digit; the last are too coarse to show one, and tell it all the same.
rows = ["conv 1", "pool 1", "conv 2", "pool 2", "conv 3", "pool 3"]
figure, grid = plt.subplots(6, 6, figsize=(6, 6.2), layout="constrained")
for line, name in zip(grid, rows, strict=True):
    maps = seen[name][test][0]
    strongest = np.argsort(-maps.max(axis=(0, 1)))[:6]
    for axes, channel in zip(line, strongest, strict=True):
        axes.imshow(maps[..., channel], cmap="gray_r")
        axes.set(xticks=[], yticks=[])
    line[0].set_ylabel(
        f"{name}\n{maps.shape[0]}×{maps.shape[1]}", fontsize=9
    )
plt.show()
