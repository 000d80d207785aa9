#!/usr/bin/env bash
# tensorly-torch 0.5.0: FactorizedConv.from_conv of a convolution with stride (2, 1) strides by 2 along both axes, with
# (1, 2) by 1, and one with padding_mode="circular" pads with zeros, all without a word. At full Tucker rank the
# result equals the convolution, to rounding, where these options are plain.
# A good guess would have been: the options are carried over, as padding (1, 0) and dilation (1, 2) are, or refused.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 packaging==26.0 tensorly==0.10.0 tensorly-torch==0.5.0
"$folder/venv/bin/python" - <<'P'
import torch
from tltorch import FactorizedConv

torch.manual_seed(0)
x = torch.randn(1, 4, 9, 9)


def compare(**options):
    conv = torch.nn.Conv2d(4, 6, 3, **options)
    layer = FactorizedConv.from_conv(conv, rank=(6, 4, 3, 3), factorization="tucker", decompose_weights=True)
    with torch.no_grad():
        expected, found = conv(x), layer(x)
    sizes = tuple(expected.shape[2:]), tuple(found.shape[2:])
    apart = float((expected - found).abs().max()) if sizes[0] == sizes[1] else None
    print(options, *sizes, apart)
    return *sizes, apart


for options in ({}, {"stride": 2}, {"padding": (1, 0)}, {"dilation": (1, 2)}):
    assert compare(**options)[2] < 1e-4
assert compare(stride=(2, 1))[:2] == ((4, 7), (4, 4))
assert compare(stride=(1, 2))[:2] == ((7, 4), (7, 7))
assert compare(padding=1, padding_mode="circular")[2] > 0.1
P
