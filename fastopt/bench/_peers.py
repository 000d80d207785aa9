"""Peers that take more than an import.

XLA's pool of threads cannot be resized after it has started: it is started while this process may use one
CPU only, and there is no JAX above one thread.
"""

import os
from functools import cache

import fastopt as fo


def one_thread_jax():
    """JAX with a single thread."""
    if fo.get_num_threads() > 1:
        raise ImportError("XLA is held to one thread in this process")
    return jax_on_one_cpu()


@cache
def jax_on_one_cpu():
    """JAX, its thread pool started while this thread may use a single CPU."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cpus is None:
        raise ImportError("XLA can be held to one thread only where a process can be held to one CPU")
    try:
        os.sched_setaffinity(0, {max(cpus)})
        jax.block_until_ready(jax.numpy.zeros(1) + 1)
    finally:
        os.sched_setaffinity(0, cpus)
    return jax


def onnx_session(net):
    """The network as an ONNX Runtime session; its weights are packed when it is made."""
    import onnx
    import onnxruntime
    from onnx import helper

    nodes, weights, value = [], [], "x"
    for i, layer in enumerate(net.layers):
        weights += [
            onnx.numpy_helper.from_array(layer.weight, f"w{i}"),
            onnx.numpy_helper.from_array(layer.bias, f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"], transB=1))
        value = f"z{i}"
        if layer.activation == "relu":
            nodes.append(helper.make_node("Relu", [value], [f"y{i}"]))
            value = f"y{i}"
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", w])
        for n, w in (("x", net.in_features), (value, net.out_features))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = fo.get_num_threads(), 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
