"""Low rank: weights as products of smaller arrays.

`truncated_svd`, `two_factor`, `tucker2` and `cp` decompose the weight of a dense layer or a convolution; `image` shows
what a rank keeps of a picture. NumPy arrays in and out, float64 inside. `factorize` makes layers of the factors.
"""

from fastopt.lowrank.cp import CP, cp
from fastopt.lowrank.image import image
from fastopt.lowrank.layers import factorize
from fastopt.lowrank.svd import TruncatedSVD, truncated_svd
from fastopt.lowrank.tucker import Tucker2, tucker2
from fastopt.lowrank.two_factor import TwoFactor, two_factor

__all__ = [
    "CP",
    "TruncatedSVD",
    "Tucker2",
    "TwoFactor",
    "cp",
    "factorize",
    "image",
    "truncated_svd",
    "tucker2",
    "two_factor",
]
