"""
A picture at low rank
=====================

A gray picture is a matrix. Its truncated singular value decomposition is the best
approximation of a rank, and needs fewer numbers. The weights of a layer are made
smaller in the same way; a picture lets us see what is lost.
"""

# %%
# The picture that scikit-learn brings along, in gray: 402 of its 427 rows, 640 columns.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import fastopt as fo

color = load_sample_image("china.jpg")[:402]
gray = np.rint(color @ [0.299, 0.587, 0.114]).astype(np.uint8)
whole = 4 * gray.size
print(f"{gray.shape[0]}×{gray.shape[1]}, {whole:,} bytes in float32")

# %%
# Singular values
# ---------------
#
# The first is large, for no pixel is negative. The others fall fast, then slowly: most
# of the picture is in a few of them, and the rest is texture.
ranks = [5, 20, 80, 402]
svd = fo.lowrank.truncated_svd(gray, rank=402)

figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axes.semilogy(np.arange(1, 403), svd.S, color="#0072B2")
for rank in ranks:
    axes.plot(rank, svd.S[rank - 1], "o", color="#D55E00")
    axes.annotate(
        f"{rank}",
        (rank, svd.S[rank - 1]),
        (4, 6),
        textcoords="offset points",
    )
axes.set(
    xlabel="number of the singular value",
    ylabel="singular value",
    xlim=(-8, 425),
    title="Singular values of the picture",
)
axes.grid(alpha=0.3)
plt.show()

# %%
# The picture at four ranks
# -------------------------
#
# Rank R keeps R columns of 402 numbers and R rows of 640. At rank 80 little is seen to be
# missing, in a third of the bytes. At the full rank of 402 the picture is the same, but
# its factors are larger than it is: below rank 247 they are smaller.
figure, grid = plt.subplots(2, 2, figsize=(9, 6.2), layout="constrained")
for axes, rank in zip(grid.flat, ranks, strict=True):
    found = fo.lowrank.truncated_svd(gray, rank=rank)
    axes.imshow(fo.lowrank.image(gray, rank), cmap="gray", vmin=0, vmax=255)
    axes.set_title(
        f"rank {rank}: {4 * found.parameters:,} bytes, "
        f"relative error {found.relative_error:.4f}",
        fontsize=10,
    )
    axes.axis("off")
plt.show()

# %%
# By error instead of rank
# ------------------------
#
# ``error=`` and ``energy=`` give the smallest rank that keeps to a bound.
for error in (0.2, 0.1, 0.05):
    found = fo.lowrank.truncated_svd(gray, error=error)
    print(f"error at most {error}: rank {found.rank}")

# %%
# In color
# --------
#
# Channels are approximated one by one.
figure, grid = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
for axes, rank in zip(grid, (20, 80), strict=True):
    axes.imshow(fo.lowrank.image(color, rank))
    axes.set_title(f"rank {rank}", fontsize=10)
    axes.axis("off")
plt.show()
