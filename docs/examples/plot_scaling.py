"""
How many ranks pay
==================

One process is measured, and the steps of up to 1 024 ranks are predicted from it:
data-parallel training between machines, on two interconnects.
"""

# %%
# Latency and bandwidth of a message are those of the page *Scaling*.
import matplotlib.pyplot as plt

import fastopt as fo
from fastopt.parallel import predict_scaling

networks = {
    "10 Gbit/s Ethernet": {"latency": 25e-6, "bandwidth": 1.17e9},
    "100 Gbit/s InfiniBand": {"latency": 2e-6, "bandwidth": 11.6e9},
}
ranks = [2**k for k in range(11)]
net = fo.nn.models.lenet()
with fo.num_threads(1):  # of each rank
    predicted = {
        name: predict_scaling(net, 128, ranks, **network)
        for name, network in networks.items()
    }

# %%
# Images per second. The thin line is what the ranks would make apart.
figure, grid = plt.subplots(
    1, 2, figsize=(8, 3.8), layout="constrained", sharey=True
)
for axes, (name, scaling) in zip(grid, predicted.items(), strict=True):
    rate = 128 / scaling.work.alone
    axes.loglog(ranks, [n * rate for n in ranks], color="0.7", linewidth=1)
    for way in ("ordered", "ring", "tree", "server", "asynchronous server"):
        rates = [p.rows_per_second for p in scaling.of(way)]
        axes.loglog(ranks, rates, marker=".", label=way)
    axes.set(title=name, xlabel="ranks")
    axes.grid(alpha=0.25)
grid[0].set_ylabel("images per second")
grid[0].legend(fontsize=8)
plt.show()

# %%
# The most ranks that make at least half of what they would make apart.
for name, scaling in predicted.items():
    print(f"{name}: ordered {scaling.most_ranks('ordered')}", end=", ")
    print(f"server {scaling.most_ranks('server')}")
