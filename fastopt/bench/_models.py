"""Our networks as ONNX models, one small function a kind of layer, and as torch modules.

- A peer gets our weights and computes what we do, dropout aside; in ONNX but for the order in which `Flatten` reads an
  image.
- Images of peers lie channels first, as both libraries have them.
- Batch norm is not among the kinds: networks come folded, and so are those that the peers are timed with.
"""

from collections.abc import Callable

import numpy as np

# ---------------------------------------------------------------- ONNX


def onnx_model(net, n) -> bytes:
    """The network for n samples."""
    import onnx
    from onnx import helper

    graph = OnnxGraph()
    ends = {"x": channels_first(net.input_shape), graph.chain(net.layers, "x"): channels_first(net.output_shape)}
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [n, *shape]) for name, shape in ends.items()]
    built = helper.make_graph(graph.nodes, "net", infos[:1], infos[1:], graph.weights)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def channels_first(shape) -> tuple:
    return (shape[-1], *shape[:-1])


class OnnxGraph:
    """Nodes and weights, added layer by layer; each method returns the name of the value it adds."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def chain(self, layers, x) -> str:
        for layer in layers:
            x = ONNX[type(layer).__name__](self, layer, x)
        return x

    def node(self, kind, *inputs, **attributes) -> str:
        from onnx import helper

        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, array) -> str:
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weighted(self, kind, layer, weight, x, **attributes) -> str:
        """A node with weight and bias, and its activation, ReLU or none."""
        y = self.node(kind, x, self.weight(weight), self.weight(layer.bias), **attributes)
        return self.node("Relu", y) if layer.activation == "relu" else y


def onnx_dense(graph, layer, x):
    return graph.weighted("Gemm", layer, layer.weight, x, transB=1)


def onnx_conv2d(graph, layer, x):
    window = onnx_window(layer) | {"dilations": layer.dilation, "group": layer.groups}
    return graph.weighted("Conv", layer, layer.weight.transpose(0, 3, 1, 2), x, **window)


def onnx_max_pool2d(graph, layer, x):
    return graph.node("MaxPool", x, **onnx_window(layer), ceil_mode=int(layer.ceil_mode))


def onnx_global_avg_pool2d(graph, layer, x):
    return graph.node("Flatten", graph.node("GlobalAveragePool", x))


def onnx_concat(graph, layer, x):
    return graph.node("Concat", *[graph.chain(branch, x) for branch in layer.chains()], axis=1)


def onnx_window(layer) -> dict:
    padding = {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {"pads": layer.padding * 2}
    return {"kernel_shape": layer.kernel_size, "strides": layer.stride, **padding}


ONNX: dict[str, Callable] = {
    "Dense": onnx_dense,
    "Conv2d": onnx_conv2d,
    "MaxPool2d": onnx_max_pool2d,
    "GlobalAvgPool2d": onnx_global_avg_pool2d,
    "Flatten": lambda graph, layer, x: graph.node("Flatten", x),
    "Dropout": lambda graph, layer, x: x,
    "Concat": onnx_concat,
}

# ---------------------------------------------------------------- torch


def torch_module(net):
    """The network as a torch module whose activations write in place, which is fastest there."""
    module = net.to_torch()
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = True
    return module
