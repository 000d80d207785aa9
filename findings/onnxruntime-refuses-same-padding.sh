#!/usr/bin/env bash
# ONNX Runtime 1.32.0: two models with auto_pad that onnx 1.23.2's checker accepts, shape inference included, are loaded and
# then refused when they run: Conv with SAME_UPPER and dilations, and MaxPool with SAME_UPPER whose stride is larger than its
# window, where no padding is needed. AveragePool of the same window runs.
# A good guess would have been: as the formulas of the operators have it, which know dilations; padding of at least 0.
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

onnxruntime.set_default_logger_severity(4)


def runs(kind, shape, end, **attributes):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("x", shape), ("y", end))]
    inputs, weights = (["x", "w"], [weight]) if kind == "Conv" else (["x"], [])
    node = helper.make_node(kind, inputs, ["y"], auto_pad="SAME_UPPER", **attributes)
    graph = helper.make_graph([node], "one", infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    try:
        answer = session.run(None, {"x": np.ones(shape, np.float32)})[0]
    except Exception as error:  # of a class of its own for each status
        print(f"{kind}: {str(error).rpartition('Message: ')[2]}")
        return False
    print(f"{kind}: runs, shape {answer.shape}")
    return True


window = {"kernel_shape": [2], "strides": [3]}
assert not runs("Conv", [1, 1, 8, 8], [1, 1, 8, 8], dilations=[2, 2])
assert not runs("MaxPool", [1, 1, 9], [1, 1, 3], **window)
assert runs("AveragePool", [1, 1, 9], [1, 1, 3], **window)
P
