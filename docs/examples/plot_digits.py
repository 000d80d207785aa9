"""
Handwritten digits
==================

A small network learns to read the 8×8 digits that scikit-learn brings along.
"""

# %%
# The data: 1797 images. One part trains, one part decides when to stop, and one part,
# which neither saw, gives the accuracy.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastopt as fo

X, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(X))
train, validation, test = np.split(order, [1200, 1500])

# %%
# The network standardizes its inputs itself, so that it can be served alone.
# ``fit`` takes the statistics from the training data.
net = fo.nn.Sequential(
    [
        fo.nn.Standardize(64),
        fo.nn.Dense(64, 128, activation="relu"),
        fo.nn.Dense(128, 64, activation="relu"),
        fo.nn.Dense(64, 10),
    ],
    rng=0,
)
adam = fo.optim.Adam(net.parameters())
trainer = fo.nn.Trainer(net, loss="cross_entropy", optimizer=adam)
history = trainer.fit(
    X[train],
    y[train],
    epochs=60,
    validation=(X[validation], y[validation]),
    patience=8,
)

accuracy = np.mean(net.predict(X[test]).argmax(axis=1) == y[test])
epochs = len(history["loss"])
print(f"best of {epochs} epochs: {history.best_epoch}, counted from 0")
print(f"test accuracy: {accuracy:.3f}")

# %%
# The loss of training and validation data. The parameters of the best epoch are the ones kept.
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.semilogy(history["loss"], label="training")
axes.semilogy(history["val_loss"], label="validation")
axes.axvline(
    history.best_epoch, color="0.6", linestyle=":", label="best epoch"
)
axes.set(xlabel="epoch", ylabel="cross-entropy")
axes.legend()
plt.show()

# %%
# A few test images with the predicted class and its probability.
probabilities = net.predict_proba(X[test[:10]])
figure, grid = plt.subplots(2, 5, figsize=(6, 3), layout="constrained")
for axes, image, p in zip(
    grid.flat, X[test[:10]], probabilities, strict=True
):
    axes.imshow(image.reshape(8, 8), cmap="gray_r")
    axes.set_title(f"{p.argmax()} ({p.max():.2f})", fontsize=10)
    axes.axis("off")
plt.show()
