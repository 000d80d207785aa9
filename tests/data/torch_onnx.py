"""Models as torch 2.13.0 exports them, and what torch gives: `python tests/data/torch_onnx.py` writes them.

`torch_onnx.onnx` with `torch_onnx.onnx.data` beside it is what ``torch.onnx.export(..., dynamo=True)`` of torch 2.13.0
with onnxscript 0.7.2 wrote, `torch_onnx_older.onnx` what ``dynamo=False`` wrote of the same module. Stack traces, which
the first notes at every node, are left out. `torch_onnx.npz` has images, channels first, and the module's outputs.

The module has a shortcut and a concatenation, BatchNorm where the exporter cannot absorb it, "same" padding, groups,
ceil_mode, silu, gelu, leaky_relu, and a flattening of an image with several channels by `view`.
"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
MODEL, OLDER, TABLE = (FOLDER / f"torch_onnx{end}" for end in (".onnx", "_older.onnx", ".npz"))


def module(torch):
    nn = torch.nn

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
            self.inner, self.side = nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.Conv2d(4, 2, 1, bias=False)
            self.pool, self.average = nn.MaxPool2d(2, 2, ceil_mode=True), nn.AvgPool2d(2, 1, 1)
            self.hidden, self.last = nn.Linear(96, 5), nn.Linear(5, 3, bias=False)

        def forward(self, x):
            x = self.norm(torch.relu(self.first(x)))
            x = x + nn.functional.silu(self.inner(x))
            x = torch.cat([x, nn.functional.leaky_relu(self.side(x))], 1)
            x = self.average(self.pool(x))
            x = nn.functional.gelu(self.hidden(x.view(x.size(0), -1)))
            return torch.softmax(self.last(x), 1)

    return Module()


def main():
    import onnx
    import torch

    torch.manual_seed(0)
    net, x = module(torch), torch.randn(3, 2, 11, 9)
    with torch.no_grad():
        for _ in range(20):  # which moves the running averages
            net(2 * torch.randn(8, 2, 11, 9) + 1)
        net.eval()
        np.savez_compressed(TABLE, x=x.numpy(), y=net(x).numpy(), torch=torch.__version__)
    torch.onnx.export(net, (x,), MODEL, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.onnx.export(net, (x,), OLDER, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    model = onnx.load(MODEL, load_external_data=False)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, MODEL)


if __name__ == "__main__":
    main()
