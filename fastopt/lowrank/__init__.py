"""Low rank: weights as products of smaller arrays.

`truncated_svd`, `two_factor`, `tucker2` and `cp` decompose the weight of a dense layer or a convolution; `image` shows
what a rank keeps of a picture. NumPy arrays in and out, float64 inside. `factorize` makes layers of the factors.
`compress` chooses methods and ranks for a whole network, by measured times, to a budget.
"""

from fastopt.lowrank.budgets import Bytes, Latency, MultiplyAdds
from fastopt.lowrank.compress import compress
from fastopt.lowrank.compression import Compression, Estimate, Row
from fastopt.lowrank.cp import CP, cp
from fastopt.lowrank.image import image
from fastopt.lowrank.latency import Timing, measure_latency
from fastopt.lowrank.layers import factorize, rank_of
from fastopt.lowrank.moments import second_moments
from fastopt.lowrank.svd import TruncatedSVD, truncated_svd
from fastopt.lowrank.tucker import Tucker2, tucker2
from fastopt.lowrank.two_factor import TwoFactor, two_factor

__all__ = [
    "CP",
    "Bytes",
    "Compression",
    "Estimate",
    "Latency",
    "MultiplyAdds",
    "Row",
    "Timing",
    "TruncatedSVD",
    "Tucker2",
    "TwoFactor",
    "compress",
    "cp",
    "factorize",
    "image",
    "measure_latency",
    "rank_of",
    "second_moments",
    "truncated_svd",
    "tucker2",
    "two_factor",
]
