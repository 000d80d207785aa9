"""
Rare and frequent features
==========================

A few words stand in every text, and most words in nearly none. Gradient descent has
one learning rate for all of them, and a weight moves only when its word is there.
Adagrad and Adam give each weight a rate of its own.
"""

# %%
# Documents of a made-up language of 400 words, the k-th of which stands in one of k + 1.
# Each word speaks for or against the class, the rare as strongly as the frequent.
import matplotlib.pyplot as plt
import numpy as np

import fastopt as fo

words, documents = 400, 8000
rng = np.random.default_rng(0)
share = 1 / (np.arange(words) + 2)
truth = rng.choice([-2.0, 2.0], words)


def draw():
    X = (rng.random((documents, words)) < share).astype(np.float32)
    noise = rng.logistic(size=documents)
    return X, (X @ truth + noise > 0).astype(float)


(X, y), validation, test = draw(), draw(), draw()
counts = X.sum(axis=0)
print(f"words in a document: {X.sum() / documents:.1f}")
print(
    f"documents of the first word: {counts[0]:.0f}, of the last: {counts[-1]:.0f}"
)

# %%
# One pass
# --------
#
# Every document is seen once, in batches of 16. Each rule has the learning rate that is
# best on documents it has not seen, of fifteen; the loss is that of still others.
RULES = {
    "SGD": (fo.optim.SGD, "#000000"),
    "Adagrad": (fo.optim.Adagrad, "#E69F00"),
    "Adam": (fo.optim.Adam, "#56B4E9"),
}


def loss(net, data):
    return net.evaluate(*data, loss="binary_cross_entropy")


def one_pass(rule, lr, pieces=1):
    """The network, its optimizer, and the loss after each piece of the documents."""
    net = fo.nn.Sequential([fo.nn.Dense(words, 1, init="zeros")])
    optimizer = rule(net.parameters(), lr=lr)
    trainer = fo.nn.Trainer(net, "binary_cross_entropy", optimizer)
    losses = [loss(net, test)]
    for piece in np.split(np.arange(documents), pieces):
        trainer.fit(X[piece], y[piece], epochs=1, batch_size=16)
        losses.append(loss(net, test))
    return net, optimizer, losses


nets, optimizers = {}, {}
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, (rule, color) in RULES.items():
    rates = np.logspace(-2.5, 1, 15)
    lr = min(rates, key=lambda lr: loss(one_pass(rule, lr)[0], validation))
    nets[name], optimizers[name], losses = one_pass(rule, lr, pieces=40)
    seen = np.linspace(0, documents, len(losses))
    axes.plot(seen, losses, color=color, label=f"{name}, lr={lr:.2g}")
    print(f"{name:8s} loss {losses[-1]:.3f}")
axes.set(xlabel="documents seen", ylabel="loss on other documents")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %%
# What was learned of each word
# -----------------------------
#
# A weight over the true one: 1 where all was learned, 0 where nothing. The lines are
# means over words that are about as frequent.
groups = np.array_split(
    np.arange(words), [4, 10, 20, 40, 80, 140, 220, 300]
)
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, (_, color) in RULES.items():
    learned = nets[name].layers[0].weight[0] / truth
    axes.semilogx(counts, learned, ".", color=color, alpha=0.15)
    axes.semilogx(
        [counts[group].mean() for group in groups],
        [learned[group].mean() for group in groups],
        "o-",
        color=color,
        label=name,
    )
    frequent, rare = learned[:20].mean(), learned[-200:].mean()
    print(
        f"{name:8s} 20 most frequent: {frequent:.2f}, 200 rarest: {rare:.2f}"
    )
axes.axhline(1, color="0.6", linestyle=":")
axes.set(
    xlabel="documents in which the word stands",
    ylabel="weight learned / true weight",
    ylim=(-0.2, 1.6),
)
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %%
# The rate of each weight
# -----------------------
#
# Adagrad divides by the root of the sum of all squared gradients, Adam by the root of a
# running average of them. Both stand in the state of the optimizer.
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, key in ("SGD", None), ("Adagrad", "sum"), ("Adam", "exp_avg_sq"):
    lr = optimizers[name].param_groups[0]["lr"]
    state = optimizers[name].state_dict()["state"]
    size = np.sqrt(state[0][key][0]) if key else np.ones(words)
    axes.loglog(
        counts, lr / size, ".", color=RULES[name][1], alpha=0.6, label=name
    )
axes.set(
    xlabel="documents in which the word stands",
    ylabel="learning rate of its weight",
)
axes.grid(alpha=0.3)
axes.legend()
plt.show()
