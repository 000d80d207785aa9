"""`fastopt compress`: a saved network made faster, or smaller, by low rank, to a budget."""

import re

import numpy as np

import fastopt as fo
from fastopt._kernels import core
from fastopt._numbers import LARGEST, finite_number, whole_number
from fastopt._tables.columns import CLASSIFY, COUNT
from fastopt._tables.training import PARTS, TEST, TRAIN, VALIDATION, parted
from fastopt.cli._options import DATA, add_json, add_reading, check_apart, check_out, check_plot, print_json
from fastopt.cli._scores import scores, shown
from fastopt.cli.evaluate import add_target, labeled, loaded

HELP = "make a saved network faster or smaller by low rank, to a budget, and save it"
# units of a budget: what they count, and in how many of its own
UNITS = {
    "us": ("Latency", 1),
    "µs": ("Latency", 1),
    "ms": ("Latency", 1000),
    "x": ("Latency", None),  # of the present latency
    "macs": ("MultiplyAdds", 1),
    "bytes": ("Bytes", 1),
    "kB": ("Bytes", 1000),
    "MB": ("Bytes", 1_000_000),
}


def add_options(parser) -> None:
    """The options of the command."""
    parser.usage = "%(prog)s MODEL DATA --budget BUDGET [options]"  # files first: lists of names have no end
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file, which stays as it is")
    text = f"{DATA}; by name, if the model knows names: it chooses ranks by these rows, and is trained on them"
    parser.add_argument("data", metavar="DATA", help=text)
    text = "200us, 1.5ms, 5e6macs (multiply-adds of a row), 100kB (of arrays), or 0.5x: half of the present latency"
    parser.add_argument("--budget", required=True, metavar="BUDGET", help=text)
    text = "rows of a call whose latency counts (default: %(default)s)"
    parser.add_argument("--batch", type=int, default=1, metavar="N", help=text)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of it (default: %(default)s)")
    text = "ways to factorize a layer, such as svd and tucker2 (default: all)"
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=text)
    text = "passes over the data to train the compressed network (default: %(default)s)"
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help=text)
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="of training (default: %(default)s)")
    text = "share of the rows held out; the epoch with their lowest loss is kept (default: %(default)s, none)"
    parser.add_argument("--validation", type=float, default=0.0, metavar="SHARE", help=text)
    text = "share of the rows that compression does not see, for the measures (default: %(default)s, none)"
    parser.add_argument("--test", type=float, default=0.0, metavar="SHARE", help=text)
    add_target(parser)
    add_reading(parser)
    text = "of parts, decompositions and order of rows (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "draw accuracy, or the loss, over latency into this file (needs matplotlib)"
    parser.add_argument("--plot", metavar="FILE", help=text)
    text = "the compressed model (default: %(default)s)"
    parser.add_argument("--out", default="compressed.safetensors", metavar="FILE", help=text)
    add_json(parser)


def run(args) -> None:
    """Compress, print what became of each layer, and write the model."""
    number, unit = _check(args)
    net, table = loaded(args)
    if table.task == COUNT:
        raise ValueError(f"{args.model}: expected a network of classes or values, got one of counts: it has one layer")
    blocks = [(X, y) for _, X, y in labeled("compress", args, net, table)]
    X, y = map(np.concatenate, zip(*blocks, strict=True))
    target = table.target
    learned = y if table.task == CLASSIFY else (y - target.mean) / target.deviation
    part = _parts(args, y, table.task)
    train, held = (np.flatnonzero(part == which) for which in (TRAIN, VALIDATION))
    result = fo.lowrank.compress(
        net,
        X[train],
        learned[train],
        _budget(args, net, number, unit),
        loss="cross_entropy" if table.task == CLASSIFY else "mse",
        methods=args.methods,
        epochs=args.epochs,
        batch_size=args.batch_size,
        validation=(X[held], learned[held]) if len(held) else None,
        seed=args.seed,
    )
    rows = np.flatnonzero(part == (TEST if args.test else TRAIN))
    networks = {"before": net, "compressed": result.compressed, "tuned": result.network}
    measured = {name: scores(table, networks[name].predict(X[rows]), y[rows]) for name in result.scores}
    result.network.save(args.out)
    if args.plot:
        result.plot(args.plot)
    where = "test rows" if args.test else "rows it was trained on"
    if args.json:
        print_json(_report(args, result, measured, len(rows)))
        return
    print(result.table())
    for name, found in measured.items():
        print(f"{name}, {len(rows)} {where}: {shown(found)}")
    print(f"wrote {args.out}")


def _check(args):
    """Refuse options out of range before anything is read; number and unit of the budget."""
    check_out("--out", args.out, args.model, args.data)
    check_out("--plot", args.plot, args.model, args.data)
    check_apart(args.plot, args.out)
    if args.plot is not None:
        check_plot("--plot", args.plot)
    whole_number("--threads", args.threads, most=core.MAX_THREADS)
    for option, least in (("batch", 1), ("epochs", 0), ("batch_size", 1), ("seed", 0)):
        whole_number(f"--{option.replace('_', '-')}", getattr(args, option), least)
    for option in ("validation", "test"):
        finite_number(f"--{option}", getattr(args, option), least=0, below=1)
    args.methods = fo.lowrank.candidates.checked_methods(args.methods or fo.lowrank.layers.NAMES, "--methods")
    finite_number("--validation and --test together", args.validation + args.test, least=0, below=1)
    return parse_budget(args.budget)


def parse_budget(text) -> tuple[float, str]:
    """Number and unit of a budget, such as 200us; ValueError for anything else."""
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*([^\W\d]+)\s*", text)
    if not found or found[2] not in UNITS:
        units = ", ".join(unit for unit in UNITS if unit != "µs")
        raise ValueError(f"--budget: expected a number and one of {units}, such as 200us or 0.5x, got {text!r}")
    number, (kind, factor) = finite_number("--budget", float(found[1]), above=0), UNITS[found[2]]
    if factor is not None and kind != "Latency":
        finite_number(f"--budget in {kind}", number * factor, least=1, most=LARGEST)
    return number, found[2]


def _budget(args, net, number, unit):
    """The budget, for this network."""
    kind, factor = UNITS[unit]
    if factor is None:
        (before,) = fo.lowrank.latency.fastest([net], args.batch, args.threads, measure=fo.lowrank.measure_latency)
        factor = before.seconds * 1e6
    amount = number * factor
    if kind != "Latency":
        amount = int(amount)  # of whole numbers no more than was said
    return getattr(fo.lowrank, kind)(amount, args.batch, args.threads)


def _parts(args, y, task) -> np.ndarray:
    """The part of each row, of PARTS."""
    strata = y if task == CLASSIFY else np.zeros(len(y), np.intp)
    part = parted(strata, args.validation, args.test, np.random.default_rng(args.seed))
    sizes = np.bincount(part, minlength=len(PARTS))
    for option, which in (("validation", VALIDATION), ("test", TEST)):
        share = getattr(args, option)
        if share and not sizes[which]:
            raise ValueError(f"--{option}: expected a share that holds a row out, got {share:g} of {len(y)} rows")
    if not sizes[TRAIN]:
        raise ValueError(f"--test: expected a share that leaves a row to train on, got {args.test:g}")
    return part


def _report(args, result, measured, rows) -> dict:
    """What has been printed, for programs."""
    return {
        "model": args.out,
        "budget": result.budget.limit,
        "cost_before": result.cost_before,
        "cost_after": result.cost_after,
        "latency_before": result.before._asdict(),
        "latency_after": result.after._asdict(),
        "layers": [
            {**row._asdict(), "before": row.before._asdict(), "after": row.after._asdict()} for row in result.rows
        ],
        "rows": rows,
        "measured_on": "test" if args.test else "train",
        **measured,
    }
