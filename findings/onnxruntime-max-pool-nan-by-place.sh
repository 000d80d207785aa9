#!/usr/bin/env bash
# ONNX Runtime 1.32.0 on x86-64: whether MaxPool passes a NaN on depends on where it lies in the window. Of a 2x2 window over
# a 2x2 image it comes out from the last place and is lost from the other three. onnx 1.23.2's reference loses it everywhere.
# A good guess would have been: NaN comes out wherever it lies, as torch's max_pool2d and NumPy's max have it.
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
from onnx.reference import ReferenceEvaluator

ends = [("x", [1, 1, 2, 2]), ("y", [1, 1, 1, 1])]
infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])
model = helper.make_model(
    helper.make_graph([node], "one", infos[:1], infos[1:]), opset_imports=[helper.make_opsetid("", 12)], ir_version=8
)
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
reference = ReferenceEvaluator(model)
lost = []
for place in range(4):
    x = np.ones((1, 1, 2, 2), np.float32)
    x.flat[place] = np.nan
    theirs, onnxs = session.run(None, {"x": x})[0].item(), reference.run(None, {"x": x})[0].item()
    print(f"NaN at place {place}: ONNX Runtime gives {theirs}, the reference of onnx {onnxs}, NumPy {x.max()}")
    lost.append((not np.isnan(theirs), not np.isnan(onnxs)))
assert lost == [(True, True), (True, True), (True, True), (False, True)], lost
P
