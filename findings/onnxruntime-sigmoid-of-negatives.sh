#!/usr/bin/env bash
# ONNX Runtime 1.32.0 on x86-64: its float32 Sigmoid is right to an absolute error of some 6e-8 only. It is not monotone,
# sigmoid(-17) is above sigmoid(-16), it is a sixth too large at -15, and exactly 0 from -18 on, so that the logarithm of a
# probability is minus infinity. Softmax of (0, -20), the same number, is right in the same version.
# A good guess would have been: a relative error of a few units in the last place, as the reference of onnx and torch have.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def run(node, x):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph([node], "one", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


x = np.array([-15, -16, -17, -18, -20], np.float32)
y, exact = run(helper.make_node("Sigmoid", ["x"], ["y"]), x), 1 / (1 + np.exp(-x.astype(np.float64)))
for row in zip(x, y, exact, strict=True):
    print("x {:.0f}: {:.4g}, exactly {:.4g}".format(*row))
softmax = run(helper.make_node("Softmax", ["x"], ["y"], axis=1), np.array([[0, -20]], np.float32))[0, 1]
print(f"softmax of (0, -20): {softmax:.4g}")
assert y[2] > y[1] and abs(y[0] / exact[0] - 1) > 0.1 and y[3] == y[4] == 0
assert abs(softmax / exact[4] - 1) < 1e-5
P
