#!/usr/bin/env bash
# torch 2.13.0 on x86-64 with oneDNN: Conv2d depends on the strides of an axis of length one. Two tensors of one channel that
# are equal, and both contiguous, give other numbers where the second has the strides of a channels-last image, with a stride
# of (1, 2) over an image two pixels wide. Without oneDNN they agree. NumPy makes such arrays: ascontiguousarray of
# moveaxis(a, 3, 1) keeps these strides, for with one channel nothing has to be copied; `.copy()` makes plain ones.
# A good guess would have been: strides of an axis of length one do not matter, and equal tensors have equal convolutions.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import numpy as np
import torch

torch.manual_seed(0)
conv = torch.nn.Conv2d(1, 2, 3, stride=(1, 2), padding=1)
images = np.random.default_rng(0).standard_normal((4, 6, 2, 1), dtype=np.float32)
kept = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 3, 1)))
plain = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
with torch.no_grad():
    apart = (conv(kept) - conv(plain)).abs().max().item()
    torch.backends.mkldnn.enabled = False
    without = (conv(kept) - conv(plain)).abs().max().item()
print(f"strides {kept.stride()} and {plain.stride()}; equal: {torch.equal(kept, plain)}; largest difference of the")
print(f"convolutions {apart:.3g}, without oneDNN {without:.3g}")
assert torch.equal(kept, plain) and kept.is_contiguous() and plain.is_contiguous()
assert apart > 0.1 and without < 1e-5
P
