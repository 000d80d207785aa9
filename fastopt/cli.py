"""The command line: `info`, `bench`, `train`, `predict` and `tune`.

Reads data files (`_data.py`), calls the library and prints; it adds nothing that the library
does not do. Whatever a user can get wrong ends in one line on stderr and exit status 2,
before the data are read where that is possible.

`train` writes what `predict` has to know into the model's metadata, under "table": the task,
a dict for each column and one for the target, and the version of fastopt.
"""

import argparse
import json
import os
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import fastopt as fo
from fastopt import _data, _files, bench
from fastopt._numbers import finite_number, whole_number

DATA = "a .npz file with arrays X and y, or a .csv file of numbers, with or without names in its first line"
EXAMPLES = """examples:
  fastopt info
  fastopt bench limits dense --threads 1 2
  fastopt train digits.csv --hidden 128 64 --epochs 20 --progress --out digits.safetensors
  fastopt predict digits.safetensors new.csv --proba --out probabilities.csv
  fastopt tune digits.safetensors --threads 1 2 --out tune.png
  fastopt tune --machine --out tuning.json
"""


def main(argv=None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        with np.errstate(over="ignore"):  # what does not fit into the network's dtype is refused, not warned about
            args.run(args)
        _flush()
    except BrokenPipeError:  # the reader has seen enough: the status of a program that SIGPIPE ends
        _discard_output()
        return 141
    except (OSError, ValueError, TypeError, ImportError, ArithmeticError, MemoryError, RecursionError) as error:
        print(f"fastopt {args.command}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        _discard_output()
        return 2
    except KeyboardInterrupt:
        print(f"fastopt {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _flush():
    if sys.stdout is not None:  # it is None where the shell has closed it
        sys.stdout.flush()


def _discard_output():
    """Let the interpreter's last flush of stdout succeed where stdout cannot be written any more."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser("fastopt", description=fo.__doc__, epilog=EXAMPLES, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"fastopt {fo.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    info = commands.add_parser("info", help="instruction set, threads and runtimes of this build and process")
    info.set_defaults(run=lambda args: fo.show_config())

    text = "times against the peers that are installed, side by side in this process"
    times = commands.add_parser("bench", help=text, description=f"Print {text}.", epilog=EXAMPLES, formatter_class=form)
    times.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(bench.TOPICS)}; all by default")
    times.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="thread counts (default: 1)")
    times.add_argument("--json", metavar="FILE", help="write the rows to this file too")
    text = "another build of fastopt, in a process of its own, as one more column"
    times.add_argument("--earlier", metavar="FOLDER", help=text)
    text = "measure nothing: put the rows of such a file into these pages, between their marks"
    times.add_argument("--markdown", nargs="+", metavar=("FILE", "PAGE"), help=text)
    times.set_defaults(run=_bench)

    text = "train a network on a data file and save it"
    train = commands.add_parser(
        "train", help=text, description=f"{text.capitalize()}.", epilog=EXAMPLES, formatter_class=form
    )
    train.add_argument("data", metavar="DATA", help=DATA)
    text = "the column of the target: its name, or its number in a file without names (default: the last)"
    train.add_argument("--target", metavar="NAME", help=text)
    text = "predict classes 0, 1, ... or values (default: classes if every target is whole and written 3, not 3.0)"
    train.add_argument("--task", choices=(CLASSIFY, REGRESS), help=text)
    train.add_argument(
        "--hidden", nargs="*", type=int, default=[128, 64], metavar="N", help="hidden sizes (default: 128 64)"
    )
    train.add_argument("--epochs", type=int, default=20, help="passes over the data (default: %(default)s)")
    text = f"{CLASS_LOSS} for classes; {', '.join(VALUE_LOSSES)} for values (default: the first of them)"
    train.add_argument("--loss", choices=(CLASS_LOSS, *VALUE_LOSSES), help=text)
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
    predict.add_argument("data", metavar="DATA", help=f"{DATA}; by name, if the model knows names")
    text = "a column to leave out: its name, or its number in a file without names"
    predict.add_argument("--target", metavar="NAME", help=text)
    what = predict.add_mutually_exclusive_group()
    what.add_argument("--proba", action="store_true", help="print the probability of each class")
    what.add_argument(
        "--values", action="store_true", help="print all outputs of the last layer, not the class of the largest"
    )
    predict.add_argument("--out", metavar="FILE", help="a .npy file, or text under any other name (default: print)")
    predict.set_defaults(run=_predict)

    text = "measure rows per second of a saved network over batch sizes and threads, or the numbers of this processor"
    tune = commands.add_parser(
        "tune", help=text, description=f"{text.capitalize()}.", epilog=EXAMPLES, formatter_class=form
    )
    tune.add_argument("model", metavar="MODEL", nargs="?", help="a .safetensors file")
    text = "measure the numbers that kernels are tuned with, and write those that FASTOPT_TUNING should override"
    tune.add_argument("--machine", action="store_true", help=text)
    tune.add_argument("--train", action="store_true", help="training steps instead of predictions")
    tune.add_argument("--batch-sizes", nargs="+", type=int, metavar="N", help="(default: 1, 2, 4, ... 1024)")
    tune.add_argument("--threads", nargs="+", type=int, metavar="N", help="thread counts (default: 1 and all)")
    text = f"draw the rates into this file too (needs matplotlib); of --machine, the file (default: {TUNING})"
    tune.add_argument("--out", metavar="FILE", help=text)
    tune.set_defaults(run=_tune)
    return parser


# ---------------------------------------------------------------- commands

CLASSIFY, REGRESS = "classify", "regress"
CLASS_LOSS, VALUE_LOSSES = "cross_entropy", ("mse", "mae", "huber")
TUNING = "tuning.json"
ADAM = 4  # arrays for each weight: itself, its gradient and two moments


def _bench(args):
    if args.markdown:
        if args.topics or args.json or args.earlier is not None or len(args.markdown) < 2:
            raise ValueError("--markdown: expected a file of rows and pages, and neither topics nor other options")
        rows, *pages = args.markdown
        bench.update(rows, pages)
        return
    unknown = [topic for topic in args.topics if topic not in bench.TOPICS]
    if unknown:
        raise ValueError(f"topic: expected some of {', '.join(bench.TOPICS)}, got {unknown[0]!r}")
    for n in args.threads:
        whole_number("--threads", n)
    _check_out("--json", args.json)
    if args.earlier is not None and not Path(args.earlier, "fastopt", "__init__.py").is_file():
        raise ValueError(f"--earlier: expected a folder with a build of fastopt, got {args.earlier}")
    bench.main(args.topics or bench.TOPICS, args.threads, args.json, args.earlier)


def _train(args):
    _check_training(args)
    data = _data.read_training(args.data, args.target, np.float32)
    task, note = args.task, ""
    if task is None:
        task = CLASSIFY if data.whole else REGRESS
        note = " (--task regress predicts values)" if data.whole else " (--task classify predicts classes)"
    losses = (CLASS_LOSS,) if task == CLASSIFY else VALUE_LOSSES
    if args.loss not in (None, *losses):
        raise ValueError(f"--loss: expected {' or '.join(losses)} for --task {task}, got {args.loss}{note}")
    X = data.X
    y, n_out = _classes(data) if task == CLASSIFY else (data.y.astype(np.float64), 1)
    order = np.random.default_rng(args.seed).permutation(len(X))
    held, kept = np.split(order, [round(args.validation * len(X))])
    if not len(kept):
        raise ValueError(f"--validation: expected a share that leaves a row to train on, got {args.validation}")
    validation = (X[held], y[held]) if len(held) else None

    net = _network([X.shape[1], *args.hidden, n_out], args.seed)
    options = {} if args.lr is None else {"lr": args.lr}
    optimizer = getattr(fo.optim, args.optimizer)(net.parameters(), **options)
    trainer = fo.nn.Trainer(net, args.loss or losses[0], optimizer, seed=args.seed)
    what = f"{n_out} classes" if task == CLASSIFY else "values"
    print(f"task: {task}, {what}{note}")
    if data.target is not None:
        print(f"target: {data.target}; columns: {_data.some(data.names)}")
    _flush()
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
    table = {
        "version": fo.__version__,
        "task": task,
        "columns": [{"name": name} for name in data.names],
        "target": {"name": data.target},
    }
    net.save(args.out, metadata={"table": table})
    best = history.best_epoch if validation else -1
    results = ", ".join(f"{name} {values[best]:.4f}" for name, values in history.items())
    print(f"{len(kept)} rows, {X.shape[1]} features, {what}: {results}")
    print(f"wrote {args.out}")


def _check_training(args):
    """Refuse options out of range before the data are read."""
    _check_out("--out", args.out, args.data)
    whole_number("--epochs", args.epochs)
    whole_number("--batch-size", args.batch_size)
    whole_number("--seed", args.seed, least=0)
    finite_number("--validation", args.validation, least=0, below=1)
    for width in args.hidden:
        whole_number("--hidden", width)
    if args.lr is not None:
        finite_number("--lr", args.lr, least=0)


def _network(widths, seed):
    """Standardized inputs and ReLU layers; refused if the machine has no memory for them and their moments."""
    size = ADAM * 4 * sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths))
    if size > _data.memory():
        raise ValueError(f"--hidden: expected layers that fit into memory, got some of {size / 2**30:.0f} GiB")
    *hidden, last = pairwise(widths)
    layers = [fo.nn.Dense(*pair, activation="relu") for pair in hidden]
    return fo.nn.Sequential([fo.nn.Standardize(widths[0]), *layers, fo.nn.Dense(*last)], rng=seed)


def _classes(data) -> tuple[np.ndarray, int]:
    """The targets as whole numbers, and how many classes there are."""
    present = np.unique(data.y)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        shown = f"{', '.join(f'{float(label):.15g}' for label in present[:5])}{', ...' if len(present) > 5 else ''}"
        remedy = "number the classes from 0, or predict values with --task regress"
        raise ValueError(f"{data.target or 'y'}: expected classes 0, 1, ... without gaps, got {shown}; {remedy}")
    return data.y.astype(np.int64), len(present)


def _predict(args):
    _check_out("--out", args.out, args.model, args.data)
    net = fo.nn.load(args.model)
    if args.proba and net.out_features == 1:
        raise ValueError("--proba: expected a network with an output for each class, got one with a single output")
    names, target = _known_names(args.model, net)
    X, found = _data.read_features(args.data, names, args.target, net.dtype)
    known = {*names, target, args.target}
    ignored = [name for name in found if name not in known]
    if found and names[0] is None:
        note = f"the first line of {args.data} is taken for names, {_data.some(found)}"
        print(f"fastopt predict: {note}; {args.model} knows none, so columns go by place", file=sys.stderr)
    elif ignored:
        print(f"fastopt predict: ignored what {args.model} does not know: {_data.some(ignored)}", file=sys.stderr)
    result = net.predict_proba(X) if args.proba else net.predict(X)
    finite = np.isfinite(result).all(axis=tuple(range(1, result.ndim)))
    if not finite.all():
        row = finite.argmin()
        raise ValueError(f"{args.data}: row {row + 1}: expected finite outputs, got {result[row]}; scale its numbers")
    if net.out_features > 1 and not args.proba and not args.values:
        result = result.argmax(axis=1)
    if args.out and Path(args.out).suffix == ".npy":
        np.save(args.out, result)
    else:
        np.savetxt(args.out or sys.stdout, result, fmt="%d" if result.dtype.kind == "i" else "%.9g", delimiter=",")


def _known_names(path, net) -> tuple[list[str | None], str | None]:
    """Names of the columns and of the target that a network was trained on, None where they are not known."""
    n, table = net.in_features, net.metadata.get("table")
    if table is None:
        return [None] * n, None
    try:
        names, target = [column["name"] for column in table["columns"]], table["target"]["name"]
    except (KeyError, TypeError):
        names, target = [], None
    named = len(set(map(str, names))) == n and all(isinstance(name, str) for name in names)
    if not named and names != [None] * n:
        raise ValueError(f"{path}: expected the names of its {n} columns, got a description that does not fit")
    return names, target


def _tune(args):
    if args.machine:
        _tune_machine(args)
        return
    if args.model is None:
        raise ValueError("MODEL: expected a file, or --machine for the numbers of this processor")
    for option, numbers in (("--batch-sizes", args.batch_sizes), ("--threads", args.threads)):
        for n in numbers or ():
            whole_number(option, n)
    _check_out("--out", args.out, args.model)
    sizes = {} if args.batch_sizes is None else {"batch_sizes": args.batch_sizes}
    tuning = fo.nn.tune(fo.nn.load(args.model), train=args.train, threads=args.threads, **sizes)
    print(tuning.table())
    for n in tuning.threads:
        print(f"knee at {n} thread{'s' * (n > 1)}: batch {tuning.knee(n)}")
    if args.out:
        tuning.plot(args.out)
        print(f"wrote {args.out}")


def _tune_machine(args):
    of_networks = {"--train": args.train, "--batch-sizes": args.batch_sizes, "--threads": args.threads}
    for option, value in {"MODEL": args.model, **of_networks}.items():
        if value:
            raise ValueError(f"{option}: expected none with --machine, which measures no network, got {value}")
    out = args.out or TUNING
    _check_out("--out", out)
    config = fo.config()
    print(f"processor: {config['processor']}, isa {config['isa']}, one thread")
    better = {}
    for measured in bench.tune_processor():
        print(f"\n{measured.table()}")
        _flush()
        if measured.best != measured.own:
            better[measured.name] = measured.best
    _files.write_bytes(out, f"{json.dumps(better, indent=1)}\n".encode())
    found = ", ".join(better) if better else "nothing, for the table's numbers suit this machine"
    print(f"\nwrote {out}: {found}; FASTOPT_TUNING={out} uses it")


def _check_out(option, out, *inputs):
    """Refuse a file that cannot be written, or that is one of the inputs, before the work."""
    if out is None:
        return
    out = Path(out)
    if not out.resolve().parent.is_dir():
        raise ValueError(f"{option}: expected an existing folder, got {out.parent}")
    if out.is_dir():
        raise ValueError(f"{option}: expected a file, got the folder {out}")
    for path in inputs:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"{option}: expected another file than {path}, which is read")
