"""A fuzzer for files: what a reader accepts can be used, what it refuses has changed nothing.

    make fuzz                   for 60 seconds
    make fuzz FILES=200000      that many files

Files of networks of every layer, of runs and of the state of every rule, and ONNX models, are mutated, byte by byte
and value by value, and read by `nn.load`, `Trainer.resume`, `Optimizer.load` and `nn.from_onnx`; what was accepted then
predicts, trains or steps. A failure is

- the end of the process, or a file that takes longer than PATIENCE (faulthandler says where),
- an error of a reader, or of using what it accepted, that is neither ValueError nor OSError; FloatingPointError
  is right where accepted values make a loss that is not defined,
- a refused file that changed a bit of the trainer or optimizer,
- more than MOST_GROWTH of memory, over all files.

The file that failed is kept and its path printed, with the seed. Where atheris is installed, coverage chooses which
mutated files are mutated further.
"""

import argparse
import copy
import faulthandler
import importlib.util
import json
import math
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import fuzz_onnx
import numpy as np

GUIDED = __name__ == "__main__" and importlib.util.find_spec("atheris") is not None
ONNX = importlib.util.find_spec("onnx") is not None
if GUIDED:
    import atheris

    with atheris.instrument_imports(include=["fastopt"]):
        import fastopt as fo
else:
    import fastopt as fo

PATIENCE = 30  # seconds
MOST_GROWTH = 16 * 2**20  # bytes
WARM = 500  # files before memory is measured: what a process loads once is loaded then
MOST_INPUT = 10**5  # numbers of a sample that a model is tried on
MOST_MEMORY = 4 * 2**30  # bytes of addresses: an absurd allocation fails

X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2, 0])
SHAPES = ((3, 2), (5,))  # of the parameters of an optimizer


# ---------------------------------------------------------------- what is saved


def every_layer():
    return [
        fo.nn.Standardize(4),
        fo.nn.Whiten(4, kind="pca"),
        fo.nn.Residual([fo.nn.Dense(4, 6, init="orthogonal"), fo.nn.Residual([fo.nn.Dense(6, 6)]), fo.nn.Dense(6, 4)]),
        fo.nn.BatchNorm(4, activation="silu"),
        fo.nn.Dropout(0.25),
        fo.nn.GroupedDense(4, 6, groups=2, activation="tanh", l1=0.1),
        fo.nn.BatchNorm(6, affine=False),
        fo.nn.Maxout(6, 4, pieces=3, max_norm=2.0),
        fo.nn.Concat([[fo.nn.Dense(4, 2, "tanh"), fo.nn.Dropout(0.5)], [], [fo.nn.Dense(4, 1)]]),
        fo.nn.Dense(7, 4),
        fo.nn.Add([[fo.nn.Dense(4, 5)], [fo.nn.Dense(4, 5, "relu")]]),
        fo.nn.Dense(5, 4),
        fo.nn.Dense(4, 3, bias=False, l2=0.01),
    ]


def network(dtype=np.float32):
    return fo.nn.Sequential(every_layer(), rng=0, dtype=dtype).calibrate(X)


def of_images():
    n = fo.nn
    layers = [
        n.Standardize(3),
        n.Conv2d(3, 6, 3, padding=1, groups=3, activation="relu"),
        n.MaxPool2d(3, 2, 1),
        n.Residual([n.Conv2d(6, 6, (1, 2), padding="same", activation="silu"), n.BatchNorm(6)]),
        n.Concat([[n.AvgPool2d(3, 1, 1)], [n.Conv2d(6, 2, 1, activation="gelu")], []]),
        n.Flatten(),
        n.Maxout(14 * 9, 4),
        n.Dense(4, 3, "softmax"),
    ]
    net = n.Sequential(layers, rng=0, input_shape=(6, 5, 3))
    return net.calibrate(np.random.default_rng(0).normal(size=(9, 6, 5, 3)))


def small():
    return fo.nn.Sequential([fo.nn.Standardize(4), fo.nn.Dense(4, 5, activation="relu"), fo.nn.Dense(5, 3)], rng=0)


def schedules():
    s = fo.schedules
    return [
        s.Constant(0.1),
        s.InverseTime(0.1),
        s.Power(0.1, 0.3),
        s.Exponential(0.1, 0.01),
        s.LinearDecay(0.1, 0.01, 100),
        s.Step(0.1, 5),
        s.Cosine(0.1, 50),
        s.Warmup(3, s.OneCycle(0.1, 40)),
        s.ReduceOnPlateau(0.1, patience=1),
    ]


def rules():
    """Makers of optimizers over given parameters."""
    o, shared = fo.optim, {"ema_decay": 0.9, "accumulate": 2}
    plain = [o.SGD, o.Adagrad, o.RMSprop, o.Adadelta, o.Adam, o.AdamW, o.RAdam, o.NAdam, o.Adamax, o.Lion]
    return [
        *plain,
        lambda p: o.SGD(p, lr=0.1, momentum=0.9, nesterov="interim", **shared),
        lambda p: o.RMSprop(p, centered=True, momentum=0.5, max_norm=1.0, **shared),
        lambda p: o.Adam([{"params": p[:1], "lr": 0.2}, {"params": p[1:]}], amsgrad=True, **shared),
        *(lambda p, lr=lr: o.SGD(p, lr=copy.deepcopy(lr), momentum=0.5) for lr in schedules()),
    ]


class Network:
    """Reads networks."""

    def __init__(self, net):
        self.save = net.save

    def attempt(self, path):
        net = fo.nn.load(path)
        net.predict(np.ones((2, net.in_features)))

    def renew(self):
        """Nothing to make anew: nothing is loaded into."""

    def state(self):
        return None


class Model(Network):
    """Reads networks from ONNX models, channels last or first."""

    def __init__(self, net, **options):
        self.save = lambda path: fo.nn.to_onnx(net, path, **options)

    def attempt(self, path):
        net = fo.nn.from_onnx(path)
        if math.prod(net.input_shape) < MOST_INPUT:
            net.predict(np.ones((2, *net.input_shape)))


class State:
    """Loads the state of an optimizer into one, and steps it."""

    def __init__(self, make):
        self.make = make
        self.renew()
        self.step(3)
        self.save = self.optimizer.save
        self.renew()

    def renew(self):
        self.params = [np.full(shape, 0.5) for shape in SHAPES]
        self.optimizer = self.make(self.params)

    def step(self, n):
        for _ in range(n):
            self.optimizer.step([np.full(shape, 0.25) for shape in SHAPES])

    def attempt(self, path):
        self.optimizer.load(path)
        self.step(2)

    def state(self):
        return self.optimizer.__getstate__()


class Run:
    """Resumes runs, and trains on."""

    def __init__(self, make, rule, loss="cross_entropy"):
        self.make = lambda net: fo.nn.Trainer(net, loss, rule(net.parameters()), max_batch=4)
        self.net = make
        self.renew()
        self.trainer.fit(X, Y, epochs=2, batch_size=3)
        self.save = self.trainer.save
        self.renew()

    def renew(self):
        self.trainer = self.make(self.net())

    def attempt(self, path):
        self.trainer.resume(path)
        self.trainer.fit(X, Y, batch_size=3)

    def state(self):
        return self.trainer.__getstate__()


def targets():
    networks = [network(), network(np.float64), network().fold(), small()]
    losses = ["cross_entropy", fo.nn.CrossEntropy(label_smoothing=0.1, class_weight=[1.0, 2.0, 3.0])]
    return [
        *map(Network, networks),
        *(
            [Model(network()), Model(of_images()), Model(of_images(), layout="channels_first", fold=True)]
            if ONNX
            else []
        ),
        *map(State, rules()),
        *(Run(small, rule, losses[i % 2]) for i, rule in enumerate(rules())),
        Run(network, fo.optim.Adam),
        Run(small, fo.optim.NewtonCG),
    ]


def bits(value):
    """Everything a value holds, as something that is equal only if every bit is."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, dict):
        return [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if isinstance(value, str | int | float | type | None) or not hasattr(value, "__dict__"):
        return repr(value)
    return (type(value).__name__, bits(value.__getstate__()))


# ---------------------------------------------------------------- mutations

NUMBERS = [-1, 0, 1, 2, 3, 5, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(2**63), -(10**400)]
NAN, INF = float("nan"), float("inf")
FLOATS = [-0.0, 0.5, 1.0, 3.0, -0.5, 1e-320, 1e-30, 1e30, 3e38, 1e308, -1e308, NAN, INF, -INF]
OTHERS = ["", "3", "false", "nan", "Dense", "x" * 5000, True, False, None, [], {}, [[]], [0], {"a": 1}]
DTYPES = {"F64": 8, "F32": 4, "U64": 8, "I64": 8, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FOREIGN = ["F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "C64", "", "f32", 4, None]
VALUES = [0.0, -0.0, -1.0, 1e-320, 1e30, -1e30, 3e38, 1e308, NAN, INF, -INF]
NAMES = ["more", "layers.9.weight", "optimizer.0.sum", "optimizer.7.x", "", "\u00e9.\ud800"]
NESTS = [
    ("[", "]"),
    ('{"type": "Residual", "layers": [', "]}"),
    ('{"type": "Concat", "branches": [[', "]]}"),
    ('{"schedule": "Warmup", "steps": 3, "start": 0.0, "then": ', "}"),
]


def dismantled(content):
    """Document, and arrays by name as (dtype, shape, bytes), of a file that is whole."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    document = json.loads(header.pop("__metadata__")["fastopt"])
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        arrays[name] = (entry["dtype"], entry["shape"], content[start + first : start + last])
    return document, arrays


def assembled(document, arrays, padding=0):
    """A file of these; `document` may be JSON text already."""
    text = document if isinstance(document, str) else json.dumps(document)
    header, body = {"__metadata__": {"fastopt": text}}, b""
    for name, (dtype, shape, content) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    head = json.dumps(header).encode() + b" " * padding
    return len(head).to_bytes(8, "little") + head + body


def places(value):
    """Every (container, key) inside a JSON value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def change_document(rng, document, arrays):
    """A value becomes another, is left out, or is joined by one that nobody knows."""
    found = list(places(document))
    numbers = [(c, k) for c, k in found if isinstance(c[k], int | float)]
    container, key = rng.choice(numbers if numbers and rng.random() < 0.6 else found)
    what = rng.random()
    if what < 0.85:
        pools = [NUMBERS, NUMBERS, FLOATS, OTHERS, [c[k] for c, k in found], [rng.randrange(12)]]
        container[key] = copy.deepcopy(rng.choice(rng.choice(pools)))
    elif what < 0.92:
        del container[key]
    elif what < 0.97 and isinstance(container, dict):
        container[rng.choice(["more", "rule", "calibrated", "bias", "layers", "step"])] = rng.choice(NUMBERS + OTHERS)
    elif isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))


def filled(dtype, shape):
    """As many zero bytes as an array of this dtype and shape has, up to some."""
    return bytes(min(DTYPES.get(dtype, 1) * math.prod(shape), 10**5))


def change_array(rng, document, arrays):
    """An array gets another dtype, shape, name or values, with bytes that fit, or is left out."""
    name = rng.choice(list(arrays))
    dtype, shape, content = arrays[name]
    what = rng.randrange(6)
    if what == 0:
        dtype = rng.choice([*DTYPES, *FOREIGN])
        arrays[name] = (dtype, shape, filled(dtype, shape))
    elif what == 1:
        shape = rng.choice([shape[::-1], [*shape, 1], shape[1:], [], [0], [n + 1 for n in shape], [1] * 70])
        arrays[name] = (dtype, shape, filled(dtype, shape))
    elif what == 2:
        del arrays[name]
    elif what == 3:
        arrays[rng.choice(NAMES)] = arrays[name]
    elif what == 4 and dtype in ("F32", "F64"):
        values = np.frombuffer(content, dtype="<f4" if dtype == "F32" else "<f8").copy()
        with np.errstate(all="ignore"):
            values[rng.randrange(len(values)) if rng.random() < 0.5 else slice(None)] = rng.choice(VALUES)
        arrays[name] = (dtype, shape, values.tobytes())
    else:
        arrays[name] = arrays[rng.choice(list(arrays))]


def change_header(rng, content):
    """A number of the header, or a string, becomes another."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    container, key = rng.choice(list(places(entries)))
    container[key] = rng.choice(rng.choice([NUMBERS, FLOATS, OTHERS]))
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + content[start:]


def change_bytes(rng, content):
    data = bytearray(content)
    start = 8 + int.from_bytes(content[:8], "little")
    for _ in range(rng.randint(1, 6)):
        i = rng.randrange(max(1, min(rng.choice([8, start, len(data)]), len(data))))
        what = rng.randrange(4) if data else 2
        if what == 0:
            data[i] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[i] = rng.choice(b'0123456789-.eE"[]{},:\\nul \x00\xff')
        elif what == 2:
            data[i:i] = rng.choice([b"0", b"-", b"9" * 30, b"[" * 3000, b'{"a":' * 2000, b"NaN", b"\x00" * 8])
        else:
            del data[i : i + rng.choice([1, 8, 100])]
    return bytes(data)


def deepened(rng, content):
    """Layers, or anything, inside each other, or very many of them."""
    document, arrays = dismantled(content)
    container, key = rng.choice(list(places(document)))
    depth, marker = rng.choice([3, 60, 300, 2000, 50_000]), "the place"
    inside = container[key]
    if rng.random() < 0.3 and isinstance(inside, list):
        container[key] = inside * rng.choice([2, 300])
        return assembled(document, arrays)
    container[key] = marker
    first, last = rng.choice(NESTS)
    text = json.dumps(document).replace(json.dumps(marker), first * depth + json.dumps(inside) + last * depth)
    return assembled(text, arrays)


def is_model(content):
    """Whether a file is an ONNX model: it begins with the number of its version, not with the length of a header."""
    return content[:1] == b"\x08" and content[2:3] != b"\x00"


def mutated(rng, content, other):
    """Another file; `other` is one to take parts of."""
    what = rng.random()
    try:
        if what < 0.75 and is_model(content):
            return fuzz_onnx.mutated(rng, content)
        if what < 0.55:
            document, arrays = dismantled(content)
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                rng.choice([change_document, change_document, change_array])(rng, document, arrays)
            return assembled(document, arrays, rng.choice([0, 0, 7]))
        if what < 0.65:
            return change_header(rng, content)
        if what < 0.70:
            return deepened(rng, content)
        if what < 0.75:
            (document, _), (_, arrays) = dismantled(content), dismantled(other)
            return assembled(document, arrays)
    except Exception:
        pass  # a file that has been damaged before: by its bytes
    if what < 0.80 and content:
        return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :] * rng.randrange(2)
    return change_bytes(rng, content)


# ---------------------------------------------------------------- the run


class Fuzzer:
    """Tries one file after the other.

    Parameters
    ----------
    folder : Path
        Where files are written; one that failed stays there.
    """

    def __init__(self, folder):
        self.folder, self.targets = Path(folder), targets()
        self.path = self.folder / "file.safetensors"
        self.seeds = []
        for target in self.targets:
            target.save(self.path)
            self.seeds.append(self.path.read_bytes())
        self.states = [bits(target.state()) for target in self.targets]
        self.accepted = self.refused = 0
        self.peak = None

    def check_seeds(self):
        """Every file that is not mutated is accepted."""
        for i, content in enumerate(self.seeds):
            self.check(i, content)
        assert self.accepted == len(self.seeds), "a file that is whole was refused"

    def check(self, i, content):
        """Reads and uses one file; AssertionError for a failure."""
        target = self.targets[i]
        self.path.write_bytes(content)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                target.attempt(self.path)
            accepted = True
        except FloatingPointError:
            accepted = True
        except (ValueError, OSError) as error:
            accepted = self.path.name not in str(error)  # an error of using it, not of reading it
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                self.fail(i, content, f"{type(error).__name__} in place of ValueError")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.accepted, self.refused = self.accepted + accepted, self.refused + (not accepted)
        if accepted:
            target.renew()
        elif bits(target.state()) != self.states[i]:
            self.fail(i, content, "a refused file changed what it was to be loaded into")
        self.check_memory(i, content)

    def check_memory(self, i, content):
        scale = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        if self.accepted + self.refused <= WARM:
            self.peak = peak
        elif peak - self.peak > MOST_GROWTH:
            self.fail(i, content, f"memory grew by {(peak - self.peak) / 2**20:.0f} MB")

    def fail(self, i, content, why):
        kept = self.folder / f"failed-{i}.safetensors"
        kept.write_bytes(content)
        raise AssertionError(f"{why}; the file is {kept}, read by {type(self.targets[i]).__name__} {i}")

    def run(self, seed, files=None, seconds=None):
        """Mutates until so many files, or so much time, are used up."""
        rng, end = random.Random(seed), time.monotonic() + (seconds or 0)
        tried = 0
        while tried < files if files is not None else time.monotonic() < end:
            i = rng.randrange(len(self.seeds))
            self.check(i, mutated(rng, self.seeds[i], rng.choice(self.seeds)))
            tried += 1

    def run_guided(self, seed, files, seconds):
        """As `run`, with the files that atheris keeps; does not return."""
        corpus = self.folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for i, content in enumerate(self.seeds):
            (corpus / str(i)).write_bytes(bytes([i]) + content)

        def mutate(data, size, seed):
            rng, i = random.Random(seed), data[0] % len(self.seeds) if data else 0
            return (bytes([i]) + mutated(rng, bytes(data[1:]), rng.choice(self.seeds)))[:size]

        def check(data):
            if data:
                self.check(data[0] % len(self.seeds), data[1:])

        limit = f"-runs={files}" if files is not None else f"-max_total_time={seconds}"
        options = [limit, f"-seed={seed}", "-max_len=100000", f"-artifact_prefix={self.folder}/"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], check, custom_mutator=mutate)
        atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, help="how many, instead of seconds")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, help="of the mutations (default: another each time)")
    parser.add_argument("--folder", help="where a file that failed is kept (default: a new temporary folder)")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(1, 2**31) if args.seed is None else args.seed
    folder = Path(args.folder or tempfile.mkdtemp(prefix="fuzz"))
    folder.mkdir(parents=True, exist_ok=True)
    guided = GUIDED and not args.plain
    print(f"fuzz: seed {seed}, folder {folder}, {'atheris' if guided else 'own mutations'}", flush=True)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    fo.set_num_threads(1)
    fuzzer = Fuzzer(folder)
    fuzzer.check_seeds()
    if guided:
        fuzzer.run_guided(seed, args.files, args.seconds)
    fuzzer.run(seed, args.files, args.seconds)
    if not args.folder:
        shutil.rmtree(folder)
    print(f"fuzz: {fuzzer.accepted} files accepted, {fuzzer.refused} refused, no failure")


if __name__ == "__main__":
    main()
