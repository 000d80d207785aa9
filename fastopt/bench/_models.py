"""Our networks as torch modules, which get our weights and compute what we do; their images lie channels first."""


def torch_module(net):
    """The network as a torch module whose activations write in place, which is fastest there."""
    module = net.to_torch()
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = True
    return module
