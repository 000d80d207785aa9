"""Peers that take more than an import.

XLA's pool of threads cannot be resized after it has started: it is started while this process may use one
CPU only, and there is no JAX above one thread.
"""

import os
from functools import cache

import fastopt as fo
from fastopt.bench._models import onnx_bytes


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


def onnx_session(net, x):
    """A call that runs the network on the samples x in ONNX Runtime, which packs the weights beforehand."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = fo.get_num_threads(), 1
    session = onnxruntime.InferenceSession(onnx_bytes(net, len(x)), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": x})


def openvino_request(net, x, channels_last=False):
    """A call that runs the network on the samples x in OpenVINO, which reads and writes them where they are.

    OpenVINO takes images channels first; with `channels_last` it is asked to take and give them as ours are.
    """
    import openvino
    from openvino.preprocess import PrePostProcessor

    core = openvino.Core()
    model = core.read_model(onnx_bytes(net, len(x)))
    if channels_last:
        steps = PrePostProcessor(model)
        for end in (steps.input(), *([steps.output()] if len(net.output_shape) == 3 else [])):
            end.tensor().set_layout(openvino.Layout("NHWC"))
            end.model().set_layout(openvino.Layout("NCHW"))
        model = steps.build()
    options = {"INFERENCE_NUM_THREADS": fo.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", options | {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))
    return lambda: request.infer(share_outputs=True)
