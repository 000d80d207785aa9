"""Our networks as ONNX models and as torch modules: one small function a kind of layer.

- A peer gets our weights and computes what we do, dropout aside, but for the order in which `Flatten` reads an image.
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
    window = onnx_window(layer) | {"dilations": pair(layer.dilation), "group": layer.groups}
    return graph.weighted("Conv", layer, layer.weight.transpose(0, 3, 1, 2), x, **window)


def onnx_max_pool2d(graph, layer, x):
    return graph.node("MaxPool", x, **onnx_window(layer), ceil_mode=int(layer.ceil_mode))


def onnx_global_avg_pool2d(graph, layer, x):
    return graph.node("Flatten", graph.node("GlobalAveragePool", x))


def onnx_concat(graph, layer, x):
    return graph.node("Concat", *[graph.chain(branch, x) for branch in layer.chains()], axis=1)


def onnx_window(layer) -> dict:
    padding = {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {"pads": pair(layer.padding) * 2}
    return {"kernel_shape": pair(layer.kernel_size), "strides": pair(layer.stride), **padding}


def pair(value) -> tuple:
    """(of rows, of columns)"""
    return tuple(np.broadcast_to(value, 2).tolist())


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


def torch_module(layers):
    """The layers of a network as one torch module."""
    import torch

    return torch.nn.Sequential(*(part for layer in layers for part in TORCH[type(layer).__name__](layer)))


def torch_weighted(layer):
    import torch

    return [layer.to_torch(), *([torch.nn.ReLU(inplace=True)] if layer.activation == "relu" else [])]


def torch_max_pool2d(layer):
    import torch

    return [torch.nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)]


def torch_global_avg_pool2d(layer):
    import torch

    return [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]


def torch_flatten(layer):
    import torch

    return [torch.nn.Flatten()]


def torch_concat(layer):
    import torch

    class Branches(torch.nn.ModuleList):
        def forward(self, x):
            return torch.cat([branch(x) for branch in self], 1)

    return [Branches(torch_module(branch) for branch in layer.chains())]


TORCH: dict[str, Callable] = {
    "Dense": torch_weighted,
    "Conv2d": torch_weighted,
    "MaxPool2d": torch_max_pool2d,
    "GlobalAvgPool2d": torch_global_avg_pool2d,
    "Flatten": torch_flatten,
    "Dropout": lambda layer: [],
    "Concat": torch_concat,
}
