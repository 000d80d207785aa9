"""Our networks as peers take them, with our weights; their images lie channels first, as both libraries have them."""


def onnx_bytes(net, n) -> bytes:
    """The network as an ONNX model for n samples."""
    from fastopt.nn.interchange.onnx_write import onnx_model  # which earlier builds need not have

    model = onnx_model(net, layout="channels_first")
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = n
    return model.SerializeToString()


def torch_module(net):
    """The network as a torch module whose activations write in place, which is fastest there."""
    module = net.to_torch()
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = True
    return module
