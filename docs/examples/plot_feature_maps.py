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
    axes.text(left + channels / 2, height + 4, label, ha="center", fontsize=9)
    left += channels + 120
axes.set(ylabel="pixels", xlabel="channels, side by side", ylim=(0, 270))
axes.set_title("Feature maps of Inception-v1")
axes.set_xticks([])
plt.show()

# %%
# Inception-v1 takes 150 528 numbers that each tell the color of one pixel, and makes
# 1 024 of them that tell what the image shows, but hardly where.
#
# What and where
# --------------
#
# A small network learns digits of 8×8 pixels that stand anywhere in 16×16. After each
# of its maps two simple readers are asked about images that training has not seen. One
# tells the digit from the channels' averages over all positions, the other where
# the digit stands from what is left at each position when channels are averaged.
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
trainer.fit(images[train], y[train], epochs=30)
