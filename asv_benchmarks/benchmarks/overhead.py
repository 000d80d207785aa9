"""The cases of fastopt.bench.overhead, the import without its process, and the memory of what is done most."""

from fastopt.bench import overhead
from fastopt.bench._networks import batch, our_net, our_step

from . import VERSION, benchmark_of

WIDTHS, ROWS = [784, 1024, 1024, 10], 128

Cases = benchmark_of(overhead)


def timeraw_import():
    return "import fastopt"


timeraw_import.version = VERSION


class Memory:
    """Peak memory of a process that has imported fastopt, and of one that also predicts or trains."""

    version = VERSION

    def peakmem_import(self):
        pass

    def peakmem_predict(self):
        x, _ = batch(WIDTHS, ROWS)()
        our_net(WIDTHS).fold().predict(x)

    def peakmem_step(self):
        our_step(our_net(WIDTHS), *batch(WIDTHS, ROWS)())()
