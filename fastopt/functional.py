"""One checked function per kernel: NumPy arrays in, NumPy arrays out, `out=` everywhere.

They are compiled beside their kernels, so that a call costs well under a
microsecond; this module is their public address.
"""

from fastopt._kernels import core

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

activation = core.activation
batch_norm = core.batch_norm
batch_norm_backward = core.batch_norm_backward
batch_norm_inference = core.batch_norm_inference
batch_statistics = core.batch_statistics
binary_cross_entropy = core.binary_cross_entropy
clip_grad_norm_ = core.clip_grad_norm_
clip_grad_value_ = core.clip_grad_value_
cross_entropy = core.cross_entropy
dense = core.dense
dense_backward = core.dense_backward
dropout = core.dropout
dropout_backward = core.dropout_backward
exp = core.exp
grouped_dense = core.grouped_dense
grouped_dense_backward = core.grouped_dense_backward
huber = core.huber
mae = core.mae
maxout = core.maxout
maxout_backward = core.maxout_backward
mse = core.mse
standardize = core.standardize
