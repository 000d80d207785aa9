"""One checked function per kernel: NumPy arrays in, NumPy arrays out, `out=` everywhere.

They are compiled beside their kernels, so that a call costs well under a
microsecond; this module is their public address.
"""

from fastopt._kernels.core import (
    activation,
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_statistics,
    binary_cross_entropy,
    clip_grad_norm_,
    clip_grad_value_,
    cross_entropy,
    conv2d,
    conv2d_backward,
    dense,
    dense_backward,
    dropout,
    dropout_backward,
    exp,
    grouped_dense,
    grouped_dense_backward,
    huber,
    mae,
    maxout,
    maxout_backward,
    mse,
    standardize,
)

__all__ = [
    "activation",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_statistics",
    "binary_cross_entropy",
    "clip_grad_norm_",
    "clip_grad_value_",
    "cross_entropy",
    "conv2d",
    "conv2d_backward",
    "dense",
    "dense_backward",
    "dropout",
    "dropout_backward",
    "exp",
    "grouped_dense",
    "grouped_dense_backward",
    "huber",
    "mae",
    "maxout",
    "maxout_backward",
    "mse",
    "standardize",
]
