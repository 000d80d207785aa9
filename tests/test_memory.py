"""Memory in the long run: what a call allocates once everything is warm, and what it leaves behind.

Pass criterion: allocations are counted by a library that stands before the C library's, in a process
of its own; a step makes none, except where ALLOWED says which. What ten thousand calls leave behind
is at most 4 KiB for Python and for malloc each, and 1 MiB for the process.
"""

import ctypes
import gc
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import fastopt as fo

# ---------------------------------------------------------------- allocations, counted

COUNTER = """
#include <errno.h>
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

_Atomic long calls = 0;

void *malloc(size_t n) { calls++; return __libc_malloc(n); }
void *calloc(size_t m, size_t n) { calls++; return __libc_calloc(m, n); }
void *realloc(void *p, size_t n) { calls++; return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { calls++; return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { calls++; return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { calls++; return (*p = __libc_memalign(a, n)) ? 0 : ENOMEM; }
void free(void *p) { calls += p != NULL; __libc_free(p); }
"""

# Prints the calls that each of CALLS makes to the C library's allocator, in all threads.
PROGRAM = """
import ctypes, gc, itertools, json, os
import numpy as np
import fastopt as fo
import fastopt.nn.trainer

calls = ctypes.c_long.in_dll(ctypes.CDLL(None), "calls")
n, *widths = json.loads(os.environ["SHAPE"])
team = int(os.environ["TEAM"])
rng = np.random.default_rng(0)
x, values = (rng.normal(size=(n, width)).astype(np.float32) for width in (widths[0], widths[-1]))
classes = rng.integers(0, widths[-1], n)
soft = rng.dirichlet(np.ones(widths[-1]), n).astype(np.float32)
sample_weight = np.ones(n, np.float32)
surrounded = {"max_norm": 1.0, "accumulate": 3, "ema_decay": 0.9, "check_finite": "skip", "momentum": 0.9}


def trainer(loss, rule, **options):
    first, *others = [fo.nn.Dense(a, b, "gelu") for a, b in itertools.pairwise(widths)]
    norm = [fo.nn.BatchNorm(widths[1], activation="silu")] if n > 1 else []
    shortcut = fo.nn.Residual([fo.nn.Dense(widths[1], widths[1], "relu"), fo.nn.Dropout(0.1)])
    net = fo.nn.Sequential([fo.nn.Whiten(widths[0]), first, *norm, shortcut, *others], rng=0).calibrate(x)
    return fo.nn.Trainer(net, loss, rule(net.parameters(), **options))


def image_trainer():
    augmentation = [fo.nn.RandomShift(1, 2), fo.nn.RandomFlip()]
    first = [fo.nn.Conv2d(4, 8, 3, padding="same", activation="relu"), fo.nn.MaxPool2d(2, 1, 1)]
    joined = fo.nn.Concat([[fo.nn.Conv2d(8, 4, 1)], [fo.nn.AvgPool2d(3, 1, 1), fo.nn.Conv2d(8, 4, 5, padding=2)]])
    branch = fo.nn.Residual([fo.nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), fo.nn.BatchNorm(8)])
    last = [fo.nn.Conv2d(8, 8, 3, stride=2), fo.nn.Dropout(0.1), fo.nn.Flatten(), fo.nn.Dense(48, 3)]
    net = fo.nn.Sequential([*augmentation, *first, joined, branch, *last], rng=0, input_shape=(6, 5, 4))
    return fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()), max_batch=n)


def counted(call, times):
    for _ in range(100):
        call()
    before = calls.value
    for _ in range(times):
        call()
    return (calls.value - before) / times


def epoch(batches):
    X, y = (np.repeat(a[:1], 8 * batches, axis=0) for a in (x, values))
    small.fit(X, y, epochs=1, batch_size=8)
    before = calls.value
    small.fit(X, y, epochs=1, batch_size=8)
    return calls.value - before


adam, sgd = trainer("mse", fo.optim.Adam), trainer("mse", fo.optim.SGD, **surrounded)
classifier = trainer("cross_entropy", fo.optim.Adam)
smoothed = trainer(fo.nn.CrossEntropy(0.1, np.linspace(1, 2, widths[-1])), fo.optim.Adam)
others = {loss: trainer(loss, fo.optim.Adam) for loss in ("mae", "huber", "binary_cross_entropy")}
net, optimizer = adam.net, adam.optimizer
folded, grads, out = net.fold(), net.value_and_grad(x, values, "mse")[1], net.predict(x)
weight, bias = net.layers[1].weight, net.layers[1].bias
y = fo.functional.dense(x, weight, bias)
on_images = image_trainer()
images, labels = rng.normal(size=(n, 6, 5, 4)).astype(np.float32), rng.integers(0, 3, n)
shown, fast_on_images = on_images.net.predict(images), on_images.net.fold()
CALLS = {
    "an empty array": lambda: np.empty(100_000),
    "step": lambda: adam.step(x, values),
    "step with all that surrounds it": lambda: sgd.step(x, values),
    "step on probabilities": lambda: classifier.step(x, soft),
    "step on classes": lambda: classifier.step(x, classes),
    "step with options of the loss": lambda: smoothed.step(x, classes),
    **{f"step with {loss}": lambda t=t: t.step(x, soft) for loss, t in others.items()},
    "step with weights": lambda: adam.step(x, values, sample_weight),
    "step on images": lambda: on_images.step(images, labels),
    "optimizer": lambda: optimizer.step(grads),
    "predict": lambda: net.predict(x, out),
    "predict of images": lambda: on_images.net.predict(images, shown),
    "predict of images folded": lambda: fast_on_images.predict(images, shown),
    "predict folded": lambda: folded.predict(x, out),
    "dense": lambda: fo.functional.dense(x, weight, bias, "relu", y),
}
gc.disable()  # what others left is not freed while we count
times = 1000 if n * weight.size < 100_000 else 100
fastopt.nn.trainer.SLICE = 1e9
small = trainer("mse", fo.optim.Adam)
with fo.num_threads(team):
    found = {name: counted(call, times) for name, call in CALLS.items()}
    found["batches of an epoch"] = epoch(1000) - epoch(300)
found["threads"] = len(os.listdir("/proc/self/task"))
print(json.dumps(found))
"""

# The most that a call may make. Two calls belong to each allocation.
ALLOWED = {
    "an empty array": 2,
    "dense": 2,  # from 25 rows on: scratch, which a network keeps and a function cannot
}


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """Where the counting library is."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("counts calls to the allocator of glibc")
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"counting needs a C compiler; there is no {compiler[0]}")
    folder = tmp_path_factory.mktemp("counter")
    (folder / "counter.c").write_text(COUNTER)
    library = folder / "counter.so"
    command = [*compiler, "-O1", "-shared", "-fPIC", "-fno-builtin", "-o", str(library), str(folder / "counter.c")]
    subprocess.run(command, check=True)
    return str(library)


# rows, widths: of which the last are enough for a team of two
@pytest.mark.parametrize("shape", [[1, 20, 37, 5], [33, 64, 64, 10], [128, 64, 256, 10]], ids=str)
@pytest.mark.parametrize("team", [1, 2])
def test_a_warm_step_allocates_nothing(shape, team, counter, python):
    printed = python(PROGRAM, LD_PRELOAD=counter, SHAPE=json.dumps(shape), TEAM=str(team))
    found = json.loads(printed)
    if fo.config()["openmp"] and shape[0] == 128:
        assert found["threads"] >= team
    del found["threads"]
    assert found["an empty array"] == 2  # the counter counts
    assert {name: calls for name, calls in found.items() if calls > ALLOWED.get(name, 0)} == {}


# ---------------------------------------------------------------- memory, left behind


class InUse(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated_bytes():
    """Bytes that malloc has given out, 0 where the C library does not tell."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 0
    mallinfo.restype = InUse
    found = mallinfo()
    return found.uordblks + found.hblkhd


def resident_bytes():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def require_nothing_left(name, call, times=10_000):
    """What `times` calls leave: resident bytes and malloc's, and Python's of 200 calls."""
    for _ in range(500):
        call()
    gc.collect()
    resident, allocated = resident_bytes(), allocated_bytes()
    for _ in range(times):
        call()
    gc.collect()
    allocated, resident = allocated_bytes() - allocated, resident_bytes() - resident
    tracemalloc.start()
    call()
    traced = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        call()
    traced = tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    assert traced <= 4096, name
    assert allocated <= 4096, name
    assert resident <= 1 << 20, name  # 100 bytes a call


def calls(net, x, targets, loss, **options):
    """What may be called ten thousand times, by name."""
    optimizer = fo.optim.Adam(net.parameters(), **options)
    trainer = fo.nn.Trainer(net, loss, optimizer, max_batch=8)
    grads = net.value_and_grad(x, targets, loss)[1]
    y, folded, layer = net.predict(x), net.fold(), net.layers[-1]
    hidden = np.ones((len(x), layer.in_features), x.dtype)
    F, dw = fo.functional, np.empty_like(layer.weight)
    return {
        "step": lambda: trainer.step(x, targets),
        "step with weights": lambda: trainer.step(x, targets, np.ones(len(x))),
        "predict": lambda: net.predict(x),
        "predict into an array": lambda: net.predict(x, y),
        "predict folded": lambda: folded.predict(x),
        "value_and_grad": lambda: net.value_and_grad(x, targets, loss),
        "optimizer": lambda: optimizer.step(grads),
        "dense": lambda: F.dense(hidden, layer.weight, layer.bias, "tanh"),
        "dense_backward": lambda: F.dense_backward(y, hidden, layer.weight, y=y, activation="tanh", dw=dw),
        "loss": lambda: getattr(F, loss)(y, targets),
    }


WAYS = {
    "cross_entropy": {},
    "mse": {"max_norm": 1.0, "accumulate": 3, "ema_decay": 0.9, "check_finite": "skip"},
    "mae": {},
    "huber": {},
    "binary_cross_entropy": {},
}


needs_mallinfo = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2") or "FASTOPT_SANITIZE" in os.environ, reason="asks glibc's malloc"
)


@needs_mallinfo
def test_a_folded_network_holds_its_weights_once():
    net = fo.nn.Sequential([fo.nn.Dense(1000, 1500), fo.nn.Maxout(1500, 400)], rng=0)
    before = allocated_bytes()
    fast = net.fold()
    gc.collect()
    assert allocated_bytes() - before < 1.05 * sum(a.nbytes for a in fast.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
@pytest.mark.skipif("FASTOPT_SANITIZE" in os.environ, reason="a sanitizer run: freed memory is kept in quarantine")
@pytest.mark.parametrize("loss", WAYS)
def test_ten_thousand_calls_leave_no_memory_behind(loss, small_net):
    rng = np.random.default_rng(8)
    x = rng.normal(2, 3, (8, 4)).astype(np.float32)
    targets = rng.integers(0, 3, 8) if loss == "cross_entropy" else rng.uniform(size=(8, 3)).astype(np.float32)
    net = small_net(dtype=np.float32)
    for name, call in calls(net, x, targets, loss, **WAYS[loss]).items():
        require_nothing_left(name, call)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
@pytest.mark.skipif("FASTOPT_SANITIZE" in os.environ, reason="a sanitizer run: freed memory is kept in quarantine")
def test_ten_thousand_calls_of_a_team_leave_no_memory_behind():
    net = fo.nn.Sequential([fo.nn.Dense(64, 100, "relu"), fo.nn.Dense(100, 20)], rng=0)
    x, targets = np.ones((100, 64), np.float32), np.zeros((100, 20), np.float32)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters()), max_batch=100)
    with fo.num_threads(2):
        require_nothing_left("step", lambda: trainer.step(x, targets))


# ---------------------------------------------------------------- memory that values share

DEPTHS = (4, 40)
VALUE = 32 * 32 * 16 * 4  # bytes of a sample after each layer


def in_depth(depth):
    """Layers on images, each of which writes one value; they have no bias, so no weight is in the way."""
    layers = [fo.nn.Dense(16, 16, "tanh", bias=False) for _ in range(depth - 1)]
    return fo.nn.Sequential([fo.nn.BatchNorm(16), *layers], rng=0, input_shape=(32, 32, 16))


def taken(call):
    """Bytes that a call has allocated and not freed."""
    gc.collect()
    before = allocated_bytes()
    kept = call()
    gc.collect()
    return allocated_bytes() - before, kept


@needs_mallinfo
@pytest.mark.parametrize("n", [1, 7])
def test_predict_takes_no_more_memory_for_a_deeper_network(n):
    few, many = (in_depth(depth) for depth in DEPTHS)
    x, y = np.zeros((n, 32, 32, 16), np.float32), np.zeros((n, 32, 32, 16), np.float32)
    (shallow, _), (deep, _) = (taken(lambda net=net: net.predict(x, y)) for net in (few, many))
    assert 2 * n * VALUE <= shallow
    assert deep <= shallow + VALUE


@needs_mallinfo
def test_training_keeps_the_values_of_a_deeper_network_and_two_gradients():
    few, many = (in_depth(depth) for depth in DEPTHS)
    (shallow, _), (deep, _) = (taken(lambda net=net: net.bind("mse", max_batch=8)) for net in (few, many))
    more = (DEPTHS[1] - DEPTHS[0]) * 8 * VALUE
    assert more <= deep - shallow <= 1.05 * more


@needs_mallinfo
def test_predict_of_many_images_takes_what_a_few_take():
    net = in_depth(4)
    x = np.zeros((600, 32, 32, 16), np.float32)
    y = np.zeros_like(x)
    with fo.num_threads(2):
        assert taken(lambda: net.predict(x, y))[0] <= 2 * (3 << 20)  # 1 MiB of values a thread, and scratch
