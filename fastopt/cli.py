"""The command line: `info`, `bench`, `train`, `predict` and `tune`.

Reads data files, calls the library and prints; it adds nothing that the library
does not do. Whatever a user can get wrong ends in one line on stderr and exit status 2.
Targets say what a model is for: whole numbers are classes, others are values.
"""

import argparse
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np

import fastopt as fo

DATA = "a .npz file with arrays X and y, or a .csv file of numbers with the target in the last column"
EXAMPLES = """examples:
  fastopt info
  fastopt bench limits dense --threads 1 2
  fastopt train digits.csv --hidden 128 64 --epochs 20 --progress --out digits.safetensors
  fastopt predict digits.safetensors new.csv --proba --out probabilities.csv
  fastopt tune digits.safetensors --threads 1 2 --out tune.png
"""


def main(argv=None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"fastopt {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fastopt {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("fastopt", description=fo.__doc__, epilog=EXAMPLES, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"fastopt {fo.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    info = commands.add_parser("info", help="instruction set, threads and runtimes of this build and process")
    info.set_defaults(run=lambda args: fo.show_config())

    text = "times against the peers that are installed, side by side in this process"
    bench = commands.add_parser("bench", help=text, description=f"Print {text}.", epilog=EXAMPLES, formatter_class=form)
    bench.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(TOPICS)}; all by default")
    bench.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="thread counts (default: 1)")
    bench.add_argument("--json", metavar="FILE", help="write the rows to this file too")
    bench.set_defaults(run=_bench)

    text = "train a network on a data file and save it"
    train = commands.add_parser(
        "train", help=text, description=f"{text.capitalize()}.", epilog=EXAMPLES, formatter_class=form
    )
    train.add_argument("data", metavar="DATA", help=f"{DATA}; classes where y is whole numbers 0, 1, ..., else values")
    train.add_argument(
        "--hidden", nargs="*", type=int, default=[128, 64], metavar="N", help="hidden sizes (default: 128 64)"
    )
    train.add_argument("--epochs", type=int, default=20, help="passes over the data (default: %(default)s)")
    rules = [name for name in fo.optim.__all__ if name != "Optimizer"]
    train.add_argument("--optimizer", choices=rules, default="Adam", help="the update rule (default: %(default)s)")
    train.add_argument("--lr", type=float, help="learning rate (default: the rule's own)")
    train.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows of a batch (default: %(default)s)")
    share = "share of the rows held out; the epoch with their lowest loss is kept (default: %(default)s; 0 for none)"
    train.add_argument("--validation", type=float, default=0.1, metavar="SHARE", help=share)
    train.add_argument("--seed", type=int, default=0, help="of weights, split and order of rows (default: %(default)s)")
    train.add_argument("--progress", action="store_true", help="show a progress bar (needs tqdm)")
    train.add_argument("--out", default="model.safetensors", metavar="FILE", help="the model (default: %(default)s)")
    train.set_defaults(run=_train)

    text = "predict with a saved network, one line a row"
    predict = commands.add_parser(
        "predict", help=text, description=f"{text.capitalize()}.", epilog=EXAMPLES, formatter_class=form
    )
    predict.add_argument("model", metavar="MODEL", help="a .safetensors file")
    predict.add_argument("data", metavar="DATA", help=f"{DATA}; targets may be missing")
    what = predict.add_mutually_exclusive_group()
    what.add_argument("--proba", action="store_true", help="print the probability of each class")
    what.add_argument(
        "--values", action="store_true", help="print all outputs of the last layer, not the class of the largest"
    )
    predict.add_argument("--out", metavar="FILE", help="a .npy file, or text under any other name (default: print)")
    predict.set_defaults(run=_predict)

    text = "measure rows per second of a saved network over batch sizes and threads"
    tune = commands.add_parser(
        "tune", help=text, description=f"{text.capitalize()}.", epilog=EXAMPLES, formatter_class=form
    )
    tune.add_argument("model", metavar="MODEL", help="a .safetensors file")
    tune.add_argument("--train", action="store_true", help="training steps instead of predictions")
    tune.add_argument("--batch-sizes", nargs="+", type=int, metavar="N", help="(default: 1, 2, 4, ... 1024)")
    tune.add_argument("--threads", nargs="+", type=int, metavar="N", help="thread counts (default: 1 and all)")
    tune.add_argument("--out", metavar="FILE", help="draw the rates into this file too (needs matplotlib)")
    tune.set_defaults(run=_tune)
    return parser


# ---------------------------------------------------------------- commands

TOPICS = (
    "limits",
    "activations",
    "dense",
    "grouped_dense",
    "maxout",
    "dropout",
    "losses",
    "optim",
    "standardize",
    "batch_norm",
    "program",
    "train",
    "newton",
)


def _bench(args):
    from fastopt import bench

    unknown = [topic for topic in args.topics if topic not in TOPICS]
    if unknown:
        raise ValueError(f"topic: expected some of {', '.join(TOPICS)}, got {unknown[0]!r}")
    bench.main(args.topics or TOPICS, args.threads, args.json)


def _train(args):
    if not 0 <= args.validation < 1:
        raise ValueError(f"--validation: expected a share of at least 0 and below 1, got {args.validation}")
    if not Path(args.out).resolve().parent.is_dir():
        raise ValueError(f"--out: expected an existing folder, got {Path(args.out).parent}")
    X, y = _read(args.data)
    if y is None:
        raise ValueError(f"{args.data}: expected a target y, got none")
    classes = y.dtype.kind in "iub"
    n_out = _count_classes(y) if classes else 1
    order = np.random.default_rng(args.seed).permutation(len(X))
    held, kept = np.split(order, [round(args.validation * len(X))])
    validation = (X[held], y[held]) if len(held) else None

    widths = [X.shape[1], *args.hidden]
    hidden = [fo.nn.Dense(*pair, activation="relu") for pair in pairwise(widths)]
    net = fo.nn.Sequential([fo.nn.Standardize(widths[0]), *hidden, fo.nn.Dense(widths[-1], n_out)], rng=args.seed)
    options = {} if args.lr is None else {"lr": args.lr}
    optimizer = getattr(fo.optim, args.optimizer)(net.parameters(), **options)
    trainer = fo.nn.Trainer(net, "cross_entropy" if classes else "mse", optimizer, seed=args.seed)
    history = trainer.fit(
        X[kept],
        y[kept],
        epochs=args.epochs,
        batch_size=args.batch_size,
        validation=validation,
        patience=None if validation is None else args.epochs,
        progress=args.progress,
        check_finite=True,
    )
    net.save(args.out)
    best = history.best_epoch if validation else -1
    results = ", ".join(f"{name} {values[best]:.4f}" for name, values in history.items())
    print(f"{len(kept)} rows, {X.shape[1]} features, {f'{n_out} classes' if classes else 'values'}: {results}")
    print(f"wrote {args.out}")


def _predict(args):
    net = fo.nn.load(args.model)
    X, _ = _read(args.data, features=net.in_features)
    if args.proba and net.out_features == 1:
        raise ValueError("--proba: expected a network with an output for each class, got one with a single output")
    if args.proba:
        result = net.predict_proba(X)
    else:
        result = net.predict(X)
        if net.out_features > 1 and not args.values:
            result = result.argmax(axis=1)
    if args.out and Path(args.out).suffix == ".npy":
        np.save(args.out, result)
    else:
        np.savetxt(args.out or sys.stdout, result, fmt="%d" if result.dtype.kind == "i" else "%.9g", delimiter=",")


def _tune(args):
    if args.out and not Path(args.out).resolve().parent.is_dir():
        raise ValueError(f"--out: expected an existing folder, got {Path(args.out).parent}")
    sizes = {} if args.batch_sizes is None else {"batch_sizes": args.batch_sizes}
    tuning = fo.nn.tune(fo.nn.load(args.model), train=args.train, threads=args.threads, **sizes)
    print(tuning.table())
    for n in tuning.threads:
        print(f"knee at {n} thread{'s' * (n > 1)}: batch {tuning.knee(n)}")
    if args.out:
        tuning.plot(args.out)
        print(f"wrote {args.out}")


# ---------------------------------------------------------------- data files


def _count_classes(y) -> int:
    present = np.unique(y)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        shown = f"{', '.join(map(str, present[:5]))}{', ...' if len(present) > 5 else ''}"
        raise ValueError(
            f"y: expected classes 0, 1, ... without gaps, got {shown}; write whole-number values with a point, 3.0"
        )
    return len(present)


def _read(path, features=None) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows X (n, features) and targets y (n,); y is None where X alone was asked for or found."""
    suffix = Path(path).suffix
    if suffix not in (".npz", ".csv"):
        raise ValueError(f"{path}: expected a .npz or .csv file, got {suffix or 'no suffix'}")
    X, y = (_read_npz if suffix == ".npz" else _read_csv)(path, features)
    if X.ndim != 2 or not X.size:
        raise ValueError(f"{path}: expected rows of features, got X of shape {X.shape}")
    if y is not None and y.shape != X.shape[:1]:
        raise ValueError(f"{path}: expected y of shape {X.shape[:1]}, one target a row, got {y.shape}")
    return X, y


def _read_npz(path, features):
    try:
        with np.load(path) as arrays:
            return arrays["X"], None if features else arrays["y"]
    except KeyError as error:
        raise ValueError(
            f"{path}: expected arrays {'X' if features else 'X and y'}, got none of that name ({error.args[0]})"
        ) from None
    except (zipfile.BadZipFile, EOFError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a .npz file, got one that is damaged or of another kind ({error})"
        ) from None


def _read_csv(path, features):
    with open(path) as stream:
        first = stream.readline()
        header = not all(_is_number(cell) for cell in first.split(","))
        if header and not stream.readline().strip():
            raise ValueError(
                f"{path}: expected rows of numbers, got {'nothing below the first line' if first.strip() else 'none'}"
            )
    how = {"delimiter": ",", "skiprows": int(header), "ndmin": 2}
    try:
        table = np.loadtxt(path, **how)
        if features and table.shape[1] != features + 1:
            return table, None
        text = np.loadtxt(path, dtype=str, usecols=[-1], **how)[:, 0]
    except ValueError as error:
        raise ValueError(f"{path}: expected rows of numbers, {error}") from None
    whole = all(cell.strip().lstrip("+-").isdigit() for cell in text)
    return table[:, :-1], table[:, -1].astype(np.int64) if whole else table[:, -1]


def _is_number(text) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
