"""
What a confidence interval covers
=================================

The standard errors of a table are right if the model is. Here are the coefficients of
insurance claims with their usual and their robust intervals, and how often either holds
the true value when the study is repeated.
"""

# %%
# Claims of 2 000 drivers, insured for up to three years. A Poisson model says that the
# variance of a count is its mean. Here drivers differ by more than the columns tell:
# each has a rate of their own besides, of mean 1, so that claims vary more.
import matplotlib.pyplot as plt
import numpy as np

import fastopt as fo

names = ["mileage", "town", "age", "power", "garage"]
truth = np.array([0.4, 0.3, -0.2, 0.1, 0.0])


def study(seed, variance, n=2000):
    """Columns, years and claims, given the variance of the drivers' own rates."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, len(names)))
    X[:, [1, 4]] = X[:, [1, 4]] > 0  # town and garage: yes or no
    years = rng.uniform(0.2, 3, n)
    own = rng.gamma(1 / variance, variance, n) if variance else np.ones(n)
    return X, years, rng.poisson(own * years * np.exp(X @ truth - 0.5))


def fitted(seed, variance):
    X, years, claims = study(seed, variance)
    return fo.newton.glm(
        X, claims, "poisson", l2=0.0, exposure=years, names=names
    )


# %%
# One study
# ---------
#
# ``"nonrobust"`` takes the variance from the model. ``"HC1"`` takes it from the
# residuals, whatever it may be.
fit = fitted(0, variance=1.0)
print(fit.summary(cov_type="HC1"))

KINDS = {"nonrobust": "#E69F00", "HC1": "#0072B2"}


def intervals(fit, kind):
    """Lower and upper ends, without those of the intercept."""
    return fit.summary(cov_type=kind).confidence_intervals[:-1].T


figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
position = np.arange(len(names))
for shift, (kind, color) in zip((-0.12, 0.12), KINDS.items(), strict=True):
    low, high = intervals(fit, kind)
    axes.errorbar(
        fit.coef,
        position + shift,
        xerr=(fit.coef - low, high - fit.coef),
        fmt="o",
        markersize=4,
        capsize=3,
        color=color,
        label=kind,
    )
axes.plot(truth, position, "kx", label="true")
axes.set(yticks=position, yticklabels=names, xlabel="coefficient")
axes.set_title("Coefficients and intervals of 95 %")
axes.invert_yaxis()
axes.grid(alpha=0.3)
axes.legend(fontsize=9)
plt.show()

# %%
# Pearson's χ² over its degrees of freedom is near 1 for counts that are Poisson's. Here
# it says that the usual standard errors are too small.
print(f"{fit.pearson_chi2 / fit.df_resid:.2f}")

# %%
# The study repeated
# ------------------
#
# Of intervals of 95 %, 95 in 100 should hold the true value. Those of ``power`` in a
# hundred studies, by their middle; the ones that miss it are red.
studies = [fitted(seed, variance=1.0) for seed in range(300)]
power = names.index("power")
figure, grid = plt.subplots(
    1, 2, figsize=(8, 3.8), layout="constrained", sharey=True, sharex=True
)
for axes, kind in zip(grid, KINDS, strict=True):
    ends = np.array(
        [intervals(fit, kind)[:, power] for fit in studies[:100]]
    )
    ends = ends[np.argsort(ends.mean(axis=1))]
    misses = (ends[:, 0] > truth[power]) | (ends[:, 1] < truth[power])
    colors = np.where(misses, "#D55E00", "0.6")
    axes.hlines(np.arange(100), *ends.T, colors=colors, linewidth=1.2)
    axes.axvline(truth[power], color="black", linewidth=1)
    axes.set(
        title=f"{kind}: {misses.sum()} of 100 miss",
        xlabel="coefficient of power",
    )
grid[0].set_ylabel("study")
plt.show()

# %%
# All coefficients, in 300 studies with drivers who are alike (variance 0), so that the
# model is right, and in the 300 above. By chance alone such a share is off by 0.013, as
# a standard deviation.
print(f"{'':14s}", *(f"{name:>8s}" for name in names))
for variance in 0.0, 1.0:
    found = studies if variance else [fitted(k, 0.0) for k in range(300)]
    for kind in KINDS:
        low, high = np.swapaxes(
            [intervals(fit, kind) for fit in found], 0, 1
        )
        share = np.mean((low <= truth) & (truth <= high), axis=0)
        print(f"{variance:.0f}, {kind:11s}", *(f"{s:8.3f}" for s in share))

# %%
# Where the model is right, robust intervals are as good as the usual ones. Where it is
# not, the usual ones hold the truth far too seldom, and robust ones about as often as
# they say. With few rows take ``"HC3"``, which is wider.
