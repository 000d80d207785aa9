"""`python -m fastopt bench`: fastopt beside its peers, in one process, and beside the machine's limits.

- A topic is a generator of cases; a case names what is done and, for fastopt and each peer, a function
  that prepares it and returns the call to time. A peer that is not installed raises ImportError: "-".
- Sides take turns, REPEATS times at least SECONDS each after a warm-up; medians count.
- Everyone gets the same number of threads. XLA's pool cannot be resized after it has started: it is
  started while this process may use one CPU only, and its column is left out above one thread.
- Learning rates of training steps are tiny, so that thousands of steps on one batch do not end in denormals.
- The limit is the larger of FLOP / FMA peak and bytes / read bandwidth, both measured in the same run;
  bytes count from 1 MiB on (what a core reads from its L1 is not measured).
"""

import json
import os
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

import fastopt as fo
from fastopt._arrays import aligned_copy
from fastopt._kernels import core
from fastopt.nn.tuning import calls_for

REPEATS, SECONDS = 7, 0.02
PAUSE = 0.15  # idle threads of other runtimes spin: OpenMP's for about 8 ms after a region, OpenBLAS's for 100
SOLVERS = ("newton-cholesky", "lbfgs", "newton-cg")  # of scikit-learn
# dense: our own dense layer of the whole width; gradient: our own gradient; pass: the memory traffic alone
PEERS = ("torch", "numpy", "sklearn", *SOLVERS, "glum", "onnxruntime", "jax", "dense", "gradient", "pass")
PACKAGES = ("numpy", "torch", "scikit-learn", "glum", "onnxruntime", "jax", "optax")
DOUBLE = ("newton",)  # topics in float64
SIZES = (1, 16, 256)  # MiB, of the arrays read for the bandwidth


class Case(NamedTuple):
    what: str
    sides: dict[str, Callable[[], Callable]]  # prepares and returns the call, by "ours" or the peer's name
    flops: float = 0.0
    bytes: float = 0.0


# ---------------------------------------------------------------- measuring


@contextmanager
def equal_threads(n) -> Iterator[None]:
    """n threads for fastopt, for every OpenMP and BLAS loaded so far, and for torch."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(n), fo.num_threads(n):
        if sys.modules.get("torch"):
            sys.modules["torch"].set_num_threads(n)
        yield


def measure(calls: dict[str, Callable], threads: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns."""
    with equal_threads(threads):
        timers = {name: timeit.Timer(call) for name, call in calls.items()}
        number = {name: calls_for(timer, SECONDS) for name, timer in timers.items()}
        times: dict[str, list[float]] = {name: [] for name in timers}
        for _ in range(REPEATS):
            for name, timer in timers.items():
                time.sleep(PAUSE if threads > 1 else 0)
                timer.timeit(1)  # wakes the team, refills the caches
                times[name].append(timer.timeit(number[name]) / number[name])
    return {name: statistics.median(values) for name, values in times.items()}


def limits(threads: int) -> dict:
    """FLOP/s and, by MiB, bytes/s that `threads` threads reach at best."""
    best: dict = {}
    with fo.num_threads(threads):
        best["fma"] = max(core.fma_rate() for _ in range(30))
        for mib in SIZES:
            x = aligned_copy(np.ones(mib << 18, np.float32))
            best[mib] = max(core.read_rate(x, max(1, 64 // mib)) for _ in range(7))
    return best


def floor(case: Case, best: dict) -> float:
    """The least seconds that the machine needs for a case; 0 where none is known."""
    size = next((mib for mib in SIZES if case.bytes <= mib << 20), SIZES[-1])
    moved = case.bytes / best[size] if case.bytes >= 1 << 20 else 0.0
    return max(moved, case.flops / best["fma"])


def run_case(topic: str, case: Case, threads: int, best: dict) -> dict:
    """One row: microseconds by side, ratios peer / ours, and the limit."""
    calls = {}
    for name, prepare in case.sides.items():
        if name == "jax" and threads > 1:
            continue
        try:
            calls[name] = prepare()
        except ImportError:
            continue
    us = {name: 1e6 * seconds for name, seconds in measure(calls, threads).items()}
    least = 1e6 * floor(case, best)
    row = {"topic": topic, "what": case.what, "threads": threads, "us": us}
    row["ratio"] = {name: value / us["ours"] for name, value in us.items() if name != "ours"}
    return row | ({"limit_us": least, "of_limit": least / us["ours"]} if least else {})


def main(topics, threads, path=None) -> None:
    """Run topics for each thread count, print their tables and write the rows to a file."""
    rows, best = [], {n: limits(n) for n in sorted({1, fo.get_num_threads(), *threads})}
    print("; ".join(f"{name} {value}" for name, value in versions().items()))
    print_limits(best)
    for topic in (t for t in topics if t != "limits"):
        for n in threads:
            peers = print_header(topic, n)
            for case in TOPICS[topic](n):
                rows.append(run_case(topic, case, n, best[n]))
                print_row(rows[-1], peers)
    if path:
        with open(path, "w") as stream:
            json.dump({"config": fo.config(), "versions": versions(), "limits": best, "rows": rows}, stream, indent=1)


def versions() -> dict[str, str]:
    """fastopt and the peers installed."""
    found = {"fastopt": f"{fo.__version__} ({fo.config()['isa']})"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


# ---------------------------------------------------------------- printing


def print_table_row(cells, widths=(44, 11, 11, 9)) -> None:
    padded = [
        f"{cell:<{widths[0]}}" if i == 0 else f"{cell:>{(*widths, *[18] * 9)[i]}}" for i, cell in enumerate(cells)
    ]
    print("".join(padded).rstrip(), flush=True)


def print_limits(best) -> None:
    print("\nlimits of this machine, best of several runs")
    print_table_row(["threads", "GFLOP/s", *(f"{mib} MiB GB/s" for mib in SIZES)], (10, 12, 16, 16))
    for n, rates in best.items():
        print_table_row([str(n), *(f"{rate / 1e9:.0f}" for rate in rates.values())], (10, 12, 16, 16))


def print_header(topic, threads) -> list[str]:
    """Head of a table; returns the peers that have a column in it."""
    present = {name for case in TOPICS[topic](threads) for name in case.sides}
    peers = [name for name in PEERS if name in present]
    dtype = "float64" if topic in DOUBLE else "float32"
    print(f"\n{topic}, {dtype}, {threads} thread{'s' * (threads > 1)}; µs (ratio peer / ours)")
    print_table_row(["", "ours µs", "limit µs", "of limit", *peers])
    return peers


def print_row(row, peers) -> None:
    least = [f"{row['limit_us']:.2f}", f"{row['of_limit']:.0%}"] if "limit_us" in row else ["-", "-"]
    beside = [f"{row['us'][p]:.1f} ({row['ratio'][p]:.2f}x)" if p in row["us"] else "-" for p in peers]
    print_table_row([row["what"], f"{row['us']['ours']:.2f}", *least, *beside])


# ---------------------------------------------------------------- what the peers need


def random(*shape) -> np.ndarray:
    """Float32 normal numbers, the same every time."""
    return aligned_copy(np.random.default_rng(0).standard_normal(shape, np.float32))


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


def our_net(widths, final="identity") -> fo.nn.Sequential:
    """Dense layers with ReLU between them."""
    last = len(widths) - 2
    return fo.nn.Sequential(
        [fo.nn.Dense(a, b, final if i == last else "relu") for i, (a, b) in enumerate(pairwise(widths))],
        rng=0,
    )


def torch_net(widths, final="identity"):
    import torch

    layers = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*(layers if final == "relu" else layers[:-1]))


def onnx_session(net, threads):
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
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------- topics: kernels


def activations(threads) -> Iterator[Case]:
    for n in (1_000, 100_000):
        x, y = random(n // 100, 100), random(n // 100, 100)
        for name in ("relu", "tanh", "sigmoid", "gelu", "silu", "softmax"):

            def ours(x=x, y=y, name=name):
                return lambda: fo.functional.activation(x, name, y)

            def torch(x=x, name=name):
                from torch import from_numpy
                from torch.nn import functional

                call, t, more = getattr(functional, name), from_numpy(x), {"dim": -1} if name == "softmax" else {}
                return lambda: call(t, **more)

            def jax(x=x, name=name):
                jax, more = jax_on_one_cpu(), {"approximate": False} if name == "gelu" else {}
                function = getattr(jax.numpy, name) if name == "tanh" else getattr(jax.nn, name)
                call, t = jax.jit(lambda t: function(t, **more)), jax.numpy.asarray(x)
                return lambda: call(t).block_until_ready()

            yield Case(f"{name}, {n} elements", {"ours": ours, "torch": torch, "jax": jax}, bytes=8 * n)


def dense(threads) -> Iterator[Case]:
    few, many = (1, 4, 32, 256), (1, 4, 8, 32, 256)
    for size in (256, 1024, 4096):
        for n in few if size == 4096 else many:
            yield dense_case(size, n)
    for size in (64, 256, 1024, 4096):
        for n in few if size in (64, 4096) else many:
            yield predict_case(f"predict dense + relu {size}x{size}, batch {n}", [size, size], n, threads, final="relu")


def dense_case(size, n) -> Case:
    """functional.dense with bias and ReLU, into an array that is there."""

    def arrays():
        return random(n, size), random(size, size), random(size), random(n, size)

    def ours():
        x, weight, bias, y = arrays()
        return lambda: fo.functional.dense(x, weight, bias, "relu", y)

    def torch():
        import torch

        x, weight, bias, _ = map(torch.from_numpy, arrays())
        linear = torch.nn.functional.linear
        return torch.inference_mode()(lambda: linear(x, weight, bias).relu_())

    def numpy():
        x, weight, bias, y = arrays()

        def call():
            np.dot(x, weight.T, out=y)
            np.add(y, bias, out=y)
            np.maximum(y, 0, out=y)

        return call

    sides = {"ours": ours, "torch": torch, "numpy": numpy}
    return Case(f"dense + relu {size}x{size}, batch {n}", sides, 2 * n * size**2, 4 * (size**2 + 2 * n * size))


def grouped_dense(threads) -> Iterator[Case]:
    for size, groups in ((256, 4), (256, 32), (1024, 4), (1024, 32)):
        for n in (1, 32, 256):
            yield grouped_dense_case(size, groups, n)


def grouped_dense_case(size, groups, n) -> Case:
    """functional.grouped_dense with bias and ReLU; torch's convolution whose kernel is 1 wide; NumPy by group."""

    def arrays():
        return random(n, size), random(size, size // groups), random(size), random(n, size)

    def ours():
        x, weight, bias, y = arrays()
        return lambda: fo.functional.grouped_dense(x, weight, bias, groups, "relu", y)

    def torch():
        import torch

        x, weight, bias, _ = map(torch.from_numpy, arrays())
        x, weight, conv = x[..., None], weight[..., None], torch.nn.functional.conv1d
        return torch.inference_mode()(lambda: conv(x, weight, bias, groups=groups).relu_())

    def numpy():
        x, weight, bias, y = arrays()
        parts = list(zip(*(np.split(a, groups, axis=1) for a in (x, y)), np.split(weight, groups), strict=True))

        def call():
            for a, b, w in parts:
                np.matmul(a, w.T, out=b)
            np.add(y, bias, out=y)
            np.maximum(y, 0, out=y)

        return call

    def dense():
        x, _, bias, y = arrays()
        weight = random(size, size)
        return lambda: fo.functional.dense(x, weight, bias, "relu", y)

    sides = {"ours": ours, "torch": torch, "numpy": numpy, "dense": dense}
    flops, moved = 2 * n * size**2 / groups, 4 * (size**2 / groups + 2 * n * size)
    return Case(f"grouped + relu {size}x{size}, {groups} groups, batch {n}", sides, flops, moved)


def maxout(threads) -> Iterator[Case]:
    for n, n_out in ((1, 256), (32, 256), (256, 1024)):
        for pieces in (2, 4):
            yield maxout_case(n, n_out, pieces)


def maxout_case(n, n_out, pieces) -> Case:
    """functional.maxout of pieces that are there."""
    x = random(n, n_out * pieces)

    def ours():
        y = random(n, n_out)
        return lambda: fo.functional.maxout(x, pieces, y)

    def torch():
        import torch

        t, y = torch.from_numpy(x).view(n, n_out, pieces), torch.empty(n, n_out)
        return torch.inference_mode()(lambda: torch.amax(t, -1, out=y))

    def numpy():
        y, columns = random(n, n_out), [x[:, p::pieces] for p in range(pieces)]

        def call():
            np.maximum(columns[0], columns[1], out=y)
            for column in columns[2:]:
                np.maximum(y, column, out=y)

        return call

    sides = {"ours": ours, "torch": torch, "numpy": numpy}
    return Case(f"maxout {n}x{n_out}, {pieces} pieces", sides, bytes=4 * n * n_out * (pieces + 1))


def dropout(threads) -> Iterator[Case]:
    for n, features in ((32, 256), (128, 512), (1000, 1000)):
        yield dropout_case(n, features)


def dropout_case(n, features) -> Case:
    """Forward, and backward of a gradient that is there."""
    x, dy = random(n, features), random(n, features)

    def ours():
        y, dx = np.empty_like(x), np.empty_like(x)

        def call():
            fo.functional.dropout(x, 0.3, 1, 2, y)
            fo.functional.dropout_backward(dy, 0.3, 1, 2, dx)

        return call

    def torch():
        import torch

        leaf, t, function = torch.tensor(x, requires_grad=True), torch.from_numpy(dy), torch.nn.functional.dropout

        def call():
            leaf.grad = None
            function(leaf, 0.3).backward(t)

        return call

    def jax():
        jax = jax_on_one_cpu()

        def both(x, dy, key):
            keep = jax.random.bernoulli(key, 0.7, x.shape)
            y, back = jax.vjp(lambda x: jax.numpy.where(keep, x / 0.7, 0), x)
            return y, *back(dy)

        call, a, b, key = jax.jit(both), jax.numpy.asarray(x), jax.numpy.asarray(dy), jax.random.key(0)
        return lambda: jax.block_until_ready(call(a, b, key))

    sides = {"ours": ours, "torch": torch, "jax": jax}
    return Case(f"dropout and backward {n}x{features}", sides, bytes=4 * x.nbytes)


def losses(threads) -> Iterator[Case]:
    for name in LOSSES:
        for n, n_out in ((128, 10), (1024, 1000)):
            yield loss_case(name, n, n_out)


# how torch and optax spell a loss, whose targets are classes, probabilities or values
LOSSES = {
    "cross_entropy": ("cross_entropy", lambda optax: optax.softmax_cross_entropy_with_integer_labels),
    "mse": ("mse_loss", lambda optax: optax.squared_error),
    "mae": ("l1_loss", lambda optax: lambda z, t: abs(z - t)),
    "huber": ("huber_loss", lambda optax: optax.huber_loss),
    "binary_cross_entropy": ("binary_cross_entropy_with_logits", lambda optax: optax.sigmoid_binary_cross_entropy),
}


def loss_case(name, n, n_out) -> Case:
    """Mean loss and its gradient."""
    z, values = random(n, n_out), random(n, n_out)[::-1].copy()
    targets = {"cross_entropy": np.arange(n) % n_out, "binary_cross_entropy": (values > 0).astype(np.float32)}.get(
        name, values
    )

    def ours():
        call, grad = getattr(fo.functional, name), np.empty_like(z)
        return lambda: call(z, targets, grad)

    def torch():
        import torch

        function = getattr(torch.nn.functional, LOSSES[name][0])
        leaf, t = torch.tensor(z, requires_grad=True), torch.from_numpy(targets)

        def call():
            leaf.grad = None
            function(leaf, t).backward()

        return call

    def jax():
        jax = jax_on_one_cpu()
        import optax

        function = LOSSES[name][1](optax)
        call = jax.jit(jax.value_and_grad(lambda z, t: function(z, t).mean()))
        a, t = jax.numpy.asarray(z), jax.numpy.asarray(targets)
        return lambda: jax.block_until_ready(call(a, t))

    return Case(
        f"{name} and gradient {n}x{n_out}",
        {"ours": ours, "torch": torch, "jax": jax},
        bytes=z.nbytes * (3 - (name == "cross_entropy")),
    )


def standardize(threads) -> Iterator[Case]:
    for n, features in ((1, 64), (128, 512), (1024, 512)):
        x, mean, scale = random(n, features), random(features), random(features)

        def ours(x=x, mean=mean, scale=scale):
            out = np.empty_like(x)
            return lambda: fo.functional.standardize(x, mean, scale, out)

        def numpy(x=x, mean=mean, scale=scale):
            out = np.empty_like(x)
            return lambda: np.multiply(np.subtract(x, mean, out=out), scale, out=out)

        def torch(x=x, mean=mean, scale=scale):
            import torch

            t, m, s, out = map(torch.from_numpy, (x, mean, scale, np.empty_like(x)))
            return lambda: torch.sub(t, m, out=out).mul_(s)

        yield Case(f"standardize {n}x{features}", {"ours": ours, "torch": torch, "numpy": numpy}, bytes=2 * x.nbytes)


def batch_norm(threads) -> Iterator[Case]:
    for n, features in ((32, 128), (128, 512), (1024, 512)):
        for backward in (False, True):
            yield batch_norm_case(n, features, backward)
        yield statistics_case(random(n, features))
    yield normalized_step_case([784, 256, 128, 10], 128, 0.2)


def batch_norm_case(n, features, backward) -> Case:
    """Training forward, and gradients of x, gamma and beta, into arrays that are there; the peers' own or composed."""

    def arrays():
        return random(n, features), random(features), random(features), random(n, features)

    def ours():
        (x, gamma, beta, dy), F = arrays(), fo.functional
        y, dx, dgamma, dbeta = (aligned_copy(a) for a in (x, x, gamma, beta))
        if not backward:
            return lambda: F.batch_norm(x, gamma, beta, 1e-5, y)

        def call():
            _, mean, var = F.batch_norm(x, gamma, beta, 1e-5, y)
            F.batch_norm_backward(dy, x, gamma, mean, var, 1e-5, dx, dgamma, dbeta)

        return call

    def torch():
        import torch

        *leaves, dy = map(torch.from_numpy, arrays())
        x, gamma, beta = leaves
        norm = torch.nn.functional.batch_norm
        if not backward:
            return torch.inference_mode()(lambda: norm(x, None, None, gamma, beta, True))
        for leaf in leaves:
            leaf.requires_grad_()
        return lambda: torch.autograd.grad(norm(x, None, None, gamma, beta, True), leaves, dy)

    def jax():
        jax = jax_on_one_cpu()
        *inputs, dy = map(jax.numpy.asarray, arrays())

        def forward(x, gamma, beta):
            mean, var = x.mean(0), x.var(0)
            return (x - mean) * (gamma * jax.lax.rsqrt(var + 1e-5)) + beta, (mean, var)

        def both(x, gamma, beta, dy):
            y, pull, statistics = jax.vjp(forward, x, gamma, beta, has_aux=True)
            return y, statistics, pull(dy)

        if not backward:
            compiled = jax.jit(forward)
            return lambda: jax.block_until_ready(compiled(*inputs))
        compiled = jax.jit(both)
        return lambda: jax.block_until_ready(compiled(*inputs, dy))

    what = f"batch_norm {'forward + backward' if backward else 'forward'} {n}x{features}"
    sides = {"ours": ours, "torch": torch, "jax": jax}
    return Case(what, sides, bytes=4 * n * features * (4 if backward else 2))


def normalized_step_case(widths, n, rate) -> Case:
    """One step with Adam of a network whose hidden layers are normalized, rectified and dropped from."""
    hidden, last = list(pairwise(widths[:-1])), widths[-2:]

    def ours():
        blocks = [(fo.nn.Dense(a, b), fo.nn.BatchNorm(b, activation="relu"), fo.nn.Dropout(rate)) for a, b in hidden]
        return our_step(fo.nn.Sequential([*chain(*blocks), fo.nn.Dense(*last)], rng=0), n)

    def torch():
        from torch import nn

        blocks = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(rate)) for a, b in hidden]
        return torch_step(nn.Sequential(*chain(*blocks), nn.Linear(*last)), n)

    weights = [a * b for a, b in pairwise(widths)]
    layers = "".join(f"-{b}-BN-relu" for _, b in hidden)
    what = f"step {widths[0]}{layers}-{widths[-1]}, dropout {rate}, batch {n}"
    return Case(what, {"ours": ours, "torch": torch}, 2 * n * (3 * sum(weights) - weights[0]), 28 * sum(weights))


def statistics_case(x) -> Case:
    """Mean and variance of every column."""

    def torch():
        import torch

        t = torch.from_numpy(x)
        return lambda: torch.var_mean(t, 0, correction=0)

    sides = {
        "ours": lambda: lambda: fo.functional.batch_statistics(x),
        "torch": torch,
        "numpy": lambda: lambda: (x.mean(0), x.var(0)),
    }
    return Case(f"batch_statistics {x.shape[0]}x{x.shape[1]}", sides, bytes=x.nbytes)


# ---------------------------------------------------------------- topics: optimizers


def optim(threads) -> Iterator[Case]:
    for n in (1_000, 10_000, 100_000, 1_000_000):
        yield optim_case(f"Adam step(grads), {n}", "Adam", [n])
    yield optim_case("Adam step(grads), 200 tensors of 1000", "Adam", [1_000] * 200)
    yield optim_case("Adam bound, 200 tensors of 1000", "Adam", [1_000] * 200, bound=True)
    for rule in RULES:
        yield optim_case(f"{rule} step(grads), 16000000", rule, [16_000_000])
    for options in ({"max_norm": 1.0}, {"check_finite": "raise"}, {"ema_decay": 0.999}, {"accumulate": 4}):
        (name,) = options
        yield optim_case(f"Adam step(grads), 1000000, {name}", "Adam", [1_000_000], **options)


# arrays that a step rewrites; how optax spells the rule
RULES = {
    "Adam": (3, lambda optax: optax.adam(1e-3)),
    "SGD": (2, lambda optax: optax.sgd(1e-3, 0.9)),
    "Adagrad": (2, lambda optax: optax.adagrad(1e-3)),
    "RMSprop": (2, lambda optax: optax.rmsprop(1e-3, 0.99)),
    "Adadelta": (3, lambda optax: optax.adadelta(1e-3)),
    "RAdam": (3, lambda optax: optax.radam(1e-3)),
    "NAdam": (3, lambda optax: optax.nadam(1e-3)),
    "Adamax": (3, lambda optax: optax.adamax(1e-3)),
    "Lion": (2, lambda optax: optax.lion(1e-3)),
}


def optim_case(what, rule, sizes, bound=False, **shared) -> Case:
    """One update of all tensors, gradients given."""
    rewritten = RULES[rule][0]
    options = {"lr": 1e-3, **({"momentum": 0.9} if rule == "SGD" else {})}
    sides = {}

    def ours():
        params, grads = [random(n) for n in sizes], [random(n) for n in sizes]
        step = getattr(fo.optim, rule)(params, **options, **shared)
        if not bound:
            return lambda: step.step(grads)
        step.bind(grads)
        return step.step

    def plain():
        grad, *arrays = (aligned_copy(random(sum(sizes))) for _ in range(1 + rewritten))
        return lambda: core.plain_pass(grad, arrays)

    sides["ours"] = ours
    if not shared:
        sides["torch"] = lambda: torch_update(rule, options, sizes)
        sides["jax"] = lambda: jax_update(rule, sizes)
    return Case(what, {**sides, "pass": plain})


def torch_update(rule, options, sizes) -> Callable:
    """torch's fused step, or the faster of its other two where there is none on a CPU."""
    import torch

    if not hasattr(torch.optim, rule):
        raise ImportError(f"torch has no {rule}")
    params = [torch.tensor(random(n)) for n in sizes]
    for p in params:
        p.grad = torch.tensor(random(p.numel()))
    make = getattr(torch.optim, rule)
    try:
        return make(params, fused=True, **options).step
    except (TypeError, RuntimeError, ValueError):
        steps = [make(params, foreach=foreach, **options).step for foreach in (False, True)]
        return min(steps, key=lambda step: min(timeit.repeat(step, number=1, repeat=4)))


def jax_update(rule, sizes) -> Callable:
    jax = jax_on_one_cpu()
    import optax

    transform = RULES[rule][1](optax)
    params, grads = ([jax.numpy.array(random(n)) for n in sizes] for _ in range(2))
    held = [params, transform.init(params)]

    def update(params, state, grads):
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def call():
        held[:] = jax.block_until_ready(compiled(*held, grads))

    return call


# ---------------------------------------------------------------- topics: networks


def program(threads) -> Iterator[Case]:
    for widths in ([64, 64, 10], [64, 128, 64, 10], [784, 256, 10], [784, 256, 128, 10]):
        for n in (1, 32):
            yield predict_case(f"predict {'-'.join(map(str, widths))}, batch {n}", widths, n, threads)


def predict_case(what, widths, n, threads, final="identity") -> Case:
    """Inference of n rows by a network folded for it, as a session of ONNX Runtime is."""
    weights = sum(a * b for a, b in pairwise(widths))

    def ours():
        net, x = our_net(widths, final).fold(), random(n, widths[0])
        return lambda: net.predict(x)

    def torch():
        import torch

        net, x = torch_net(widths, final), torch.from_numpy(random(n, widths[0]))
        return torch.inference_mode()(lambda: net(x))

    def onnxruntime():
        session, feed = onnx_session(our_net(widths, final), threads), {"x": random(n, widths[0])}
        return lambda: session.run(None, feed)

    sides = {"ours": ours, "torch": torch, "onnxruntime": onnxruntime}
    return Case(what, sides, 2 * n * weights, 4 * (weights + n * (widths[0] + widths[-1])))


def train(threads) -> Iterator[Case]:
    yield train_case([64, 64, 10], 32)
    yield train_case([784, 256, 10], 32)
    yield train_case([784, 256, 128, 10], 128)
    yield train_case([784, 512, 512, 10], 1)
    yield train_case([784, 1024, 1024, 10], 128)
    digits = train_case([64, 128, 64, 10], 32)
    yield digits._replace(sides={**digits.sides, "sklearn": lambda: sklearn_step([64, 128, 64, 10], 32)})
    yield fit_case()


def train_case(widths, n) -> Case:
    """One step with Adam: forward, cross-entropy, backward, update."""
    weights = [a * b for a, b in pairwise(widths)]

    def ours():
        return our_step(our_net(widths), n)

    def torch():
        return torch_step(torch_net(widths), n)

    def jax():
        return jax_step(widths, n)

    flops = 2 * n * (3 * sum(weights) - weights[0])  # the input needs no gradient
    what = f"step {'-'.join(map(str, widths))}, batch {n}"
    return Case(what, {"ours": ours, "torch": torch, "jax": jax}, flops, 28 * sum(weights))


def our_step(net, n) -> Callable:
    x, y = random(n, net.in_features), np.arange(n) % 10
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=1e-7), max_batch=n)
    return lambda: trainer.step(x, y)


def torch_step(net, n) -> Callable:
    import torch

    x, y = torch.from_numpy(random(n, net[0].in_features)), torch.arange(n) % 10
    adam = torch.optim.Adam(net.parameters(), lr=1e-7, fused=True)

    def call():
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        adam.step()

    return call


def jax_step(widths, n) -> Callable:
    jax = jax_on_one_cpu()
    import optax

    rule = optax.adam(1e-7)

    x, y = jax.numpy.array(random(n, widths[0])), jax.numpy.arange(n) % 10
    params, loss = jax_params(widths), jax_loss()
    held = [params, rule.init(params)]

    def step(params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    compiled = jax.jit(step, donate_argnums=(0, 1))

    def call():
        held[:] = jax.block_until_ready(compiled(*held, x, y))[:2]

    return call


def jax_params(widths) -> list:
    """Weights and biases of our network of these widths."""
    jax = jax_on_one_cpu()
    return [(jax.numpy.array(layer.weight.T), jax.numpy.array(layer.bias)) for layer in our_net(widths).layers]


def jax_loss() -> Callable:
    """Cross-entropy of such a network."""
    jax = jax_on_one_cpu()
    import optax

    def loss(params, x, y):
        *hidden, (weight, bias) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, y).mean()

    return loss


def sklearn_net(widths, n, lr, epochs=1):
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        widths[1:-1],
        batch_size=n,
        alpha=0.0,
        learning_rate_init=lr,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=10_000,
        random_state=0,
    )


def sklearn_step(widths, n) -> Callable:
    net, x, y = sklearn_net(widths, n, 1e-7), random(n, widths[0]), np.arange(n) % 10
    net.partial_fit(x, y, classes=np.arange(10))
    return lambda: net.partial_fit(x, y)


def fit_case(epochs=5) -> Case:
    """Networks made and trained for some epochs on 1797 rows, as many as the digits have."""
    widths, x, y = [64, 128, 64, 10], random(1797, 64), np.arange(1797) % 10

    def ours():
        def call():
            net = our_net(widths)
            fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters())).fit(x, y, epochs=epochs)

        return call

    def sklearn():
        import warnings

        sklearn_net(widths, 32, 1e-3)

        def call():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it would rather train longer
                sklearn_net(widths, 32, 1e-3, epochs).fit(x, y)

        return call

    return Case(f"fit 64-128-64-10, batch 32, {epochs} epochs of 1797", {"ours": ours, "sklearn": sklearn})


# ---------------------------------------------------------------- topics: second order


GRADIENT = 1e-8  # no component of the gradient of the mean objective exceeds it, on any side


def newton(threads) -> Iterator[Case]:
    for n, d in ((100_000, 50), (20_000, 300)):
        yield glm_case(f"logistic {n}x{d}", *logistic_data(n, d), ("newton-cholesky", "lbfgs", "glum"))
    yield glm_case("softmax digits 1797x64, 10 classes", *digits_data(), ("newton-cholesky", "lbfgs"))
    X = np.random.default_rng(0).standard_normal((100, 1000))
    yield glm_case("softmax 100x1000, 10 classes", X, np.arange(100) % 10, ("newton-cg", "lbfgs"))
    for dtype in ("float32", "float64"):
        yield hessian_case(20_000, 300, dtype)
    yield hvp_case([784, 256, 128, 10], 128)
    yield hvp_case([784, 1024, 1024, 10], 128)
    yield hvp_case([784, 256, 128, 10], 128, gauss_newton=True)


def logistic_data(n, d) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X, coef = rng.standard_normal((n, d)), rng.standard_normal(d) / np.sqrt(d)
    return X, (rng.uniform(size=n) < 1 / (1 + np.exp(-X @ coef))).astype(int)


def digits_data() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X / 16, y


def mean_gradient(X, y, coef, intercept) -> float:
    """Largest component of the gradient of mean loss + ||coef||^2 / (2 n), computed by NumPy."""
    coef, classes = np.atleast_2d(coef), np.unique(y)
    z = X @ coef.T + intercept
    z = np.hstack([0 * z, z]) if len(coef) == 1 else z
    p = np.exp(z - z.max(axis=1, keepdims=True))
    residual = p / p.sum(axis=1, keepdims=True) - (y[:, None] == classes)
    residual = residual[:, 1:] if len(coef) == 1 else residual
    return max(np.abs(residual.T @ X + coef).max(), np.abs(residual.sum(axis=0)).max()) / len(X)


def checked(fit, X, y, gradient) -> Callable:
    """The call `fit`, once what it finds has as small a gradient as everybody's."""
    model = fit()
    coef, intercept = (model.coef, model.intercept) if hasattr(model, "coef") else (model.coef_, model.intercept_)
    norm = mean_gradient(X, y, coef, np.ravel(intercept))
    if norm > gradient:
        raise RuntimeError(f"bench newton: expected a gradient of at most {gradient}, got {norm} from {model}")
    return fit


def glm_case(what, X, y, peers) -> Case:
    """A fit with l2 = 1, from nothing to a gradient of GRADIENT."""
    many = len(np.unique(y)) > 2

    def ours():
        family = "multinomial" if many else "binomial"
        return checked(lambda: fo.newton.glm(X, y, family, tol=GRADIENT), X, y, GRADIENT)

    def sklearn(solver):
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(solver=solver, tol=GRADIENT, max_iter=10_000)
        return checked(lambda: model.fit(X, y), X, y, GRADIENT)

    def glum():
        from glum import GeneralizedLinearRegressor

        how = {"family": "binomial", "alpha": 1 / len(X), "l1_ratio": 0, "solver": "irls-ls", "gradient_tol": GRADIENT}
        model, target = GeneralizedLinearRegressor(**how, max_iter=1000), y.astype(float)
        return checked(lambda: model.fit(X, target), X, y, GRADIENT)

    sides = {"ours": ours} | {name: glum if name == "glum" else partial(sklearn, name) for name in peers}
    return Case(what, sides)


def hessian_case(n, d, dtype) -> Case:
    """One weighted Hessian X^T D X of float64 data, added up in `dtype`."""
    X, weight = np.random.default_rng(0).standard_normal((n, d)), np.random.default_rng(1).uniform(0.1, 1, n)

    def ours():
        data, out = core.GlmData("gaussian", X, np.zeros(n), weight, 1, False), np.empty((d, d), dtype)
        data.value(np.zeros((1, d)), np.empty((1, d)))
        return lambda: data.hessian(out)

    sides = {"ours": ours, "numpy": lambda: lambda: (X * weight[:, None]).T @ X}
    flops = n * d * (d + 1) * (1 if dtype == "float32" else 2)  # what the same time does in float32
    return Case(f"Hessian {n}x{d}, sums in {dtype}", sides, flops, X.nbytes)


def hvp_case(widths, n, gauss_newton=False) -> Case:
    """One Hessian-vector product of cross-entropy, forward included, or Gauss-Newton product; peers have the former."""
    weights = [a * b for a, b in pairwise(widths)]

    def ours():
        training, x, y, v = prepared()
        return lambda: training.hvp(x, y, v, gauss_newton=gauss_newton)

    def gradient():
        training, x, y, _ = prepared()
        return lambda: training.step(x, y)

    def prepared():
        net, x, y = our_net(widths), random(n, widths[0]), np.arange(n) % 10
        training = core.Training(net._training_program, "cross_entropy", None, n)
        return training, x, y, [random(*p.shape) for p in net.parameters()]

    def torch():
        import torch

        net, x, y = torch_net(widths), torch.from_numpy(random(n, widths[0])), torch.arange(n) % 10
        params = list(net.parameters())
        v = [torch.from_numpy(random(*p.shape)) for p in params]

        def call():
            loss = torch.nn.functional.cross_entropy(net(x), y)
            grads = torch.autograd.grad(loss, params, create_graph=True)
            return torch.autograd.grad(grads, params, v)

        return call

    def jax():
        jax = jax_on_one_cpu()
        loss, x, y = jax_loss(), jax.numpy.array(random(n, widths[0])), jax.numpy.arange(n) % 10
        params = jax_params(widths)
        v = jax.tree.map(lambda p: jax.numpy.array(random(*p.shape)), params)
        product = jax.jit(lambda params, v: jax.jvp(lambda p: jax.grad(loss)(p, x, y), (params,), (v,))[1])
        return lambda: jax.block_until_ready(product(params, v))

    what = f"{'Gauss-Newton' if gauss_newton else 'Hessian'} product {'-'.join(map(str, widths))}, batch {n}, float32"
    sides = {"ours": ours, "gradient": gradient}
    # forward and its tangent, backward and its tangent: 8 products a weight, 3 in the first layer; Gauss-Newton 5 and 3
    flops = 2 * n * (5 * sum(weights) - 2 * weights[0] if gauss_newton else 8 * sum(weights) - 5 * weights[0])
    return Case(what, sides if gauss_newton else {**sides, "torch": torch, "jax": jax}, flops, 12 * sum(weights))


TOPICS = {
    f.__name__: f
    for f in (
        activations,
        dense,
        grouped_dense,
        maxout,
        batch_norm,
        dropout,
        losses,
        optim,
        standardize,
        program,
        train,
        newton,
    )
}
