#!/usr/bin/env bash
# OpenVINO 2026.4.1 on the CPU: ReLU gives 0 for NaN, and max pooling the largest of the other pixels, so that an image
# with a missing pixel gets a prediction like any other; sigmoid, leaky ReLU and convolution keep the NaN.
# A good guess would have been: NaN comes out as NaN, as the same model gives in ONNX Runtime and in torch.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import numpy as np
import openvino as ov
from openvino import opset13 as op

x = np.arange(-8, 8, dtype=np.float32).reshape(1, 1, 4, 4)
x[0, 0, 1, 1] = np.nan


def missing(layer):
    """How many outputs of the layer are NaN for an image of one NaN."""
    image = op.parameter(x.shape, np.float32)
    model = ov.Model([layer(image)], [image])
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return int(np.isnan(ov.Core().compile_model(model, "CPU", options)([x])[0]).sum())


taps = op.constant(np.ones((1, 1, 3, 3), np.float32))
found = {
    "convolution": missing(lambda image: op.convolution(image, taps, [1, 1], [1, 1], [1, 1], [1, 1])),
    "sigmoid": missing(op.sigmoid),
    "relu": missing(op.relu),
    "max pool": missing(lambda image: op.max_pool(image, [1, 1], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)),
}
print(f"OpenVINO {ov.__version__.split("-")[0]}, one NaN of 16 pixels: {found}")
assert found == {"convolution": 9, "sigmoid": 1, "relu": 0, "max pool": 0}, found
P
