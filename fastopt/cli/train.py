"""`fastopt train`: a network for classes or values, or a Poisson model of counts, from one data file."""

import inspect
from itertools import pairwise

import numpy as np

import fastopt as fo
from fastopt import schedules
from fastopt._numbers import finite_number, whole_number
from fastopt._tables.archives import memory
from fastopt._tables.columns import CLASSIFY, COUNT, REGRESS, TASKS
from fastopt._tables.source import some
from fastopt._tables.training import TEST, TRAIN, VALIDATION, Options, read_training
from fastopt.cli._options import (
    DATA,
    add_json,
    add_reading,
    check_apart,
    check_out,
    check_plot,
    flush,
    mention,
    opened,
    print_json,
)
from fastopt.cli._ranks import PARALLEL, fit, is_first, job, workers
from fastopt.cli._scores import scores, shown
from fastopt.nn.layers import Layer
from fastopt.nn.progress import History
from fastopt.optim.named import RULES

HELP = "train a network on a data file and save it"
CLASS_LOSS, VALUE_LOSSES = "cross_entropy", ("mse", "mae", "huber")
SCHEDULES = ("constant", "cosine", "one-cycle", "plateau")
FALLING = ("cosine", "one-cycle")  # schedules whose mean is half the learning rate
ADAM = 4  # arrays for each weight: itself, its gradient and two moments
PLATEAU = 5  # epochs without a better loss before the learning rate falls
WHAT = {CLASSIFY: "classes", REGRESS: "values", COUNT: "counts"}
L2 = 1.0  # the penalty of a model of counts, of standardized columns
EPOCHS, SHALLOW_EPOCHS = 50, 200  # of networks with two hidden layers and more, and of others, which learn more slowly
LEAST_EPOCHS, STEPS = 4, 100_000  # fewer epochs where more steps would be taken
DECAY = 1.0  # of AdamW: the most by default
# what has no meaning for a model of counts, with the value that stands in where nobody has said any
NETWORK = {
    "hidden": [128, 64],
    "epochs": None,
    "loss": None,
    "optimizer": "AdamW",
    "lr": None,
    "schedule": "cosine",
    "weight_decay": None,
    "batch_size": 32,
    "dropout": 0.0,
    "batch_norm": False,
    "class_weight": None,
    "patience": None,
    "plot": None,
    "progress": False,
    "parallel": None,
    "servers": 1,
    "max_staleness": None,
}


def add_options(parser) -> None:
    """The options of the command."""
    parser.usage = "%(prog)s DATA [options]"  # files first: lists of names have no end of their own
    parser.add_argument("data", metavar="DATA", help=DATA)
    group = parser.add_argument_group("what to learn, and from what")
    text = "the column of the target: its name, or its number in a file without names (default: the last)"
    group.add_argument("--target", metavar="NAME", help=text)
    text = "predict classes, values or counts (default: classes for text, and for whole numbers 0, 1, ... or any two)"
    group.add_argument("--task", choices=TASKS, help=text)
    some_columns = group.add_mutually_exclusive_group()
    some_columns.add_argument("--columns", nargs="+", metavar="NAME", default=[], help="use these columns only")
    some_columns.add_argument("--drop", nargs="+", metavar="NAME", default=[], help="leave these columns out")
    text = "columns whose fields are categories, also where some of them are numbers"
    group.add_argument("--categories", nargs="+", metavar="NAME", default=[], help=text)
    text = "categories of a column that are told apart; all others are one more (default: %(default)s)"
    group.add_argument("--max-categories", type=int, default=20, metavar="N", help=text)
    text = "fill in missing numbers with the column's median, and take missing text for a category (default: refuse)"
    group.add_argument("--impute", choices=("median", "refuse"), default="refuse", help=text)
    text = "share of the rows held out; the epoch with their lowest loss is kept (default: %(default)s, none)"
    group.add_argument("--validation", type=float, default=0.0, metavar="SHARE", help=text)
    text = "share of the rows that is measured once, at the end (default: %(default)s, none)"
    group.add_argument("--test", type=float, default=0.0, metavar="SHARE", help=text)
    add_reading(parser)
    group = parser.add_argument_group("the network, and how it is trained (none of these for --task count)")
    group.add_argument("--hidden", nargs="*", type=int, metavar="N", help="hidden sizes (default: 128 64)")
    text = (
        f"passes over the data (default: {EPOCHS}, with at most one hidden layer {SHALLOW_EPOCHS}; of many rows fewer)"
    )
    group.add_argument("--epochs", type=int, metavar="N", help=text)
    text = f"{CLASS_LOSS} for classes; {', '.join(VALUE_LOSSES)} for values (default: the first of them)"
    group.add_argument("--loss", choices=(CLASS_LOSS, *VALUE_LOSSES), help=text)
    group.add_argument("--optimizer", choices=RULES, help=f"the update rule (default: {NETWORK['optimizer']})")
    group.add_argument("--lr", type=float, help="learning rate (default: the rule's own)")
    text = f"how the learning rate goes on (default: {NETWORK['schedule']})"
    group.add_argument("--schedule", choices=SCHEDULES, help=text)
    text = f"of the weights (default: for AdamW up to {DECAY:g}, less in long runs; of other rules 0)"
    group.add_argument("--weight-decay", type=float, metavar="RATE", help=text)
    group.add_argument(
        "--batch-size", type=int, metavar="N", help=f"rows of a batch of a rank (default: {NETWORK['batch_size']})"
    )
    group.add_argument("--dropout", type=float, metavar="RATE", help="part of each hidden layer dropped (default: 0)")
    text = "normalize each hidden layer over the batch"
    group.add_argument("--batch-norm", action="store_true", default=None, help=text)
    text = "balanced: every class counts the same, however many rows it has"
    group.add_argument("--class-weight", choices=("balanced",), help=text)
    text = "stop after so many epochs without a lower loss of the rows held out (default: never)"
    group.add_argument("--patience", type=int, metavar="N", help=text)
    text = "draw the losses of the epochs into this file (needs matplotlib)"
    group.add_argument("--plot", metavar="FILE", help=text)
    text = "show a progress bar (needs tqdm)"
    group.add_argument("--progress", action="store_true", default=None, help=text)
    text = (
        "on the ranks of an MPI job (mpiexec -n 4 python -m fastopt train ...); data: each takes its share of the "
        "batches; server: some hold the weights, the others find gradients at their own pace"
    )
    group.add_argument("--parallel", choices=PARALLEL, help=text)
    text = f"with --parallel server: ranks that hold the weights (default: {NETWORK['servers']})"
    group.add_argument("--servers", type=int, metavar="N", help=text)
    text = "with --parallel server: updates a rank may be ahead of the slowest; 0: all in step (default: any number)"
    group.add_argument("--max-staleness", type=int, metavar="N", help=text)
    text = "of weights, parts and order of rows (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    parser.add_argument("--out", default="model.safetensors", metavar="FILE", help="the model (default: %(default)s)")
    add_json(parser)


def run(args) -> None:
    """Train, print how well, and write the model."""
    with job(args.parallel) as comm:
        _train(args, comm)


def _train(args, comm):
    """The command on one rank."""
    _check(args)
    source = opened(args, with_target=True)
    options = Options(**{name: getattr(args, name) for name in Options._fields})
    data = read_training(source, options, fo.__version__)
    table, task = data.table, data.table.task
    _check_task(args, task, _other_task(data))
    for name in data.counting:
        mention("train", f"column {name} of {args.data} numbers the rows; --drop {name} leaves it out")
    wanted = {
        name: default if getattr(args, name) is None else getattr(args, name) for name, default in NETWORK.items()
    }
    net = _layers(wanted, data, args.seed)
    if not args.json:
        _print_task(data)
    history = _fit_counts(net, data) if task == COUNT else _fit(net, data, wanted, args.seed, comm)
    measured = {
        name: scores(table, net.predict(data.part(part)[0]), data.part(part)[1])
        for name, part in (("validation", VALIDATION), ("test", TEST))
        if data.sizes[part]
    }
    net.layers[0].mean, net.layers[0].scale = data.mean, data.scale  # from here on it takes rows of the file
    if is_first(comm):
        net.save(args.out, metadata={"table": table.described()})
    if args.plot and is_first(comm):
        _plot(history, args.plot)
    best = -1 if history.best_epoch is None else history.best_epoch
    losses = {name: values[best] for name, values in history.items()}
    if args.json:
        print_json(_report(args, data, history, losses, measured))
        return
    fitted = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    print(f"{data.sizes[TRAIN]} rows, {data.X.shape[1]} features, {_learned(table)}: {fitted}")
    for name, scored in measured.items():
        print(f"{name}: {shown(scored)}")
    print(f"wrote {args.out}")


# ---------------------------------------------------------------- options


def _check(args):
    """Refuse options out of range before the data are read."""
    check_out("--out", args.out, args.data)
    check_out("--plot", args.plot, args.data)
    check_apart(args.plot, args.out)
    for option in ("epochs", "batch_size", "patience"):
        if getattr(args, option) is not None:
            whole_number(_flag(option), getattr(args, option))
    for option, least in (("seed", 0), ("max_categories", 1)):
        whole_number(_flag(option), getattr(args, option), least)
    for option in ("validation", "test"):
        finite_number(_flag(option), getattr(args, option), least=0, below=1)
    finite_number("--validation and --test together", args.validation + args.test, least=0, below=1)
    for width in args.hidden or ():
        whole_number("--hidden", width)
    for option in ("lr", "weight_decay"):
        if getattr(args, option) is not None:
            finite_number(_flag(option), getattr(args, option), least=0)
    if args.dropout is not None:
        finite_number("--dropout", args.dropout, least=0, below=1)
    for option, least in (("servers", 1), ("max_staleness", 0)):
        if getattr(args, option) is not None:
            whole_number(_flag(option), getattr(args, option), least)
            if args.parallel != "server":
                raise ValueError(f"{_flag(option)}: expected --parallel server with it, got {args.parallel}")
    if args.patience is not None and args.validation == 0:
        raise ValueError("--patience: expected --validation above 0, for it goes by the loss of rows held out, got 0")
    if args.plot is not None:
        check_plot("--plot", args.plot)
    _check_task(args, args.task)


def _check_task(args, task, other=""):
    """Refuse options that a task has no use for; `other` says how to predict something else."""
    if task is None:
        return
    if task == COUNT:
        given = [name for name in NETWORK if getattr(args, name) is not None]
        if given:
            value = getattr(args, given[0])
            raise ValueError(f"{_flag(given[0])}: expected none with --task count, which fits no network, got {value}")
        return
    losses = (CLASS_LOSS,) if task == CLASSIFY else VALUE_LOSSES
    if args.loss not in (None, *losses):
        raise ValueError(f"--loss: expected {' or '.join(losses)} for --task {task}, got {args.loss}{other}")
    if args.class_weight is not None and task != CLASSIFY:
        raise ValueError(f"--class-weight: expected none with --task {task}, got {args.class_weight}{other}")


def _flag(option) -> str:
    return f"--{option.replace('_', '-')}"


# ---------------------------------------------------------------- models


def _layers(wanted, data, seed) -> fo.nn.Sequential:
    """The network over standardized rows: ReLU layers, or none for counts; refused if memory has no room for it."""
    table, features = data.table, data.X.shape[1]
    hidden = [] if table.task == COUNT else wanted["hidden"]
    widths = [features, *hidden, len(table.target.classes) if table.task == CLASSIFY else 1]
    size = ADAM * 4 * sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths))
    if size > memory():
        raise ValueError(f"--hidden: expected layers that fit into memory, got some of {size / 2**30:.0f} GiB")
    layers: list[Layer] = [fo.nn.Standardize(features)]
    *between, last = pairwise(widths)
    for n_in, n_out in between:
        if wanted["batch_norm"]:
            layers += [fo.nn.Dense(n_in, n_out, bias=False), fo.nn.BatchNorm(n_out, activation="relu")]
        else:
            layers.append(fo.nn.Dense(n_in, n_out, activation="relu"))
        if wanted["dropout"]:
            layers.append(fo.nn.Dropout(wanted["dropout"]))
    net = fo.nn.Sequential([*layers, fo.nn.Dense(*last)], rng=seed)
    net.layers[0].calibrated = True  # to change nothing, for the rows are standardized already
    return net


def _fit(net, data, wanted, seed, comm):
    """Train the network; the losses of its epochs."""
    table, (X, y) = data.table, data.part(TRAIN)
    batches = -(-len(X) // (wanted["batch_size"] * workers(comm, wanted)))
    most = EPOCHS if len(wanted["hidden"]) > 1 else SHALLOW_EPOCHS
    epochs = wanted["epochs"] or max(LEAST_EPOCHS, min(most, STEPS // batches))
    optimizer = _optimizer(net, wanted, epochs * batches)
    X_held, y_held = data.part(VALIDATION)
    return fit(
        net,
        _loss(wanted, table, y),
        optimizer,
        seed,
        comm,
        wanted,
        X,
        _as_learned(table, y),
        epochs=epochs,
        batch_size=wanted["batch_size"],
        validation=(X_held, _as_learned(table, y_held)) if len(X_held) else None,
        patience=(wanted["patience"] or epochs) if len(X_held) else None,
        progress=wanted["progress"],
    )


def _optimizer(net, wanted, steps):
    """The rule with its learning rate over so many steps."""
    rule = RULES[wanted["optimizer"]]
    value = inspect.signature(rule).parameters["lr"].default if wanted["lr"] is None else wanted["lr"]
    lr = {
        "constant": lambda: value,
        "cosine": lambda: schedules.Cosine(value, steps),
        "one-cycle": lambda: schedules.OneCycle(value, steps),
        "plateau": lambda: schedules.ReduceOnPlateau(value, patience=PLATEAU),
    }[wanted["schedule"]]()
    decay = wanted["weight_decay"]
    if decay is None and rule is fo.optim.AdamW:
        # What no gradient holds up shrinks by exp(-decay * sum of rates) in the run (Loshchilov & Hutter 2019).
        total = value * steps * (0.5 if wanted["schedule"] in FALLING else 1.0)
        decay = min(DECAY, 1 / total) if total else DECAY
    return rule(net.parameters(), lr=lr, **({} if decay is None else {"weight_decay": decay}))


def _loss(wanted, table, y):
    if table.task != CLASSIFY:
        return wanted["loss"] or VALUE_LOSSES[0]
    if wanted["class_weight"] is None:
        return CLASS_LOSS
    counts = np.bincount(y)
    return fo.nn.CrossEntropy(class_weight=tuple((len(y) / (len(counts) * counts)).tolist()))


def _as_learned(table, y):
    """Targets as the network learns them: values standardized."""
    return y if table.task == CLASSIFY else (y - table.target.mean) / table.target.deviation


def _fit_counts(net, data):
    """Fit the network's one layer as a Poisson model; its deviance is what the one epoch has to tell."""
    X, y = data.part(TRAIN)
    fit = fo.newton.glm(X, y, family="poisson", l2=L2)
    net.layers[1].weight, net.layers[1].bias = fit.coef[None], [fit.intercept]
    return History(deviance=[scores(data.table, net.predict(X), y)["deviance"]])


# ---------------------------------------------------------------- what is printed


def _print_task(data):
    table, target = data.table, data.table.target
    print(f"task: {table.task}, {_learned(table)}{_other_task(data)}")
    if target.name is not None:
        print(f"target: {target.name}; columns: {some([column.name for column in table.columns])}")
    flush()


def _learned(table) -> str:
    return f"{len(table.target.classes)} classes" if table.task == CLASSIFY else f"{WHAT[table.task]}"


def _other_task(data) -> str:
    """How to predict something else, where the targets may be that as well."""
    labels = data.table.target.classes
    if not data.guessed or (labels is not None and isinstance(labels[0], str)):
        return ""
    other = REGRESS if data.table.task == CLASSIFY else CLASSIFY
    return f" (--task {other} predicts {WHAT[other]})"


def _report(args, data, history, losses, measured) -> dict:
    """What has been printed, and the losses of all epochs, for programs."""
    table = data.table
    return {
        "model": args.out,
        "task": table.task,
        "target": table.target.name,
        "classes": table.target.classes,
        "columns": [column.name for column in table.columns],
        "features": data.X.shape[1],
        "rows": dict(zip(("train", "validation", "test"), data.sizes, strict=True)),
        "losses": losses,
        "best_epoch": history.best_epoch,
        "history": dict(history),
        **measured,
    }


def _plot(history, path):
    """The losses over the epochs, and the epoch that is kept."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        if name in history:
            ax.plot(range(1, len(history[name]) + 1), history[name], label=label)
    if history.best_epoch is not None:
        ax.axvline(history.best_epoch + 1, color="gray", linewidth=1, linestyle="--", label="kept")
    ax.set(xlabel="Epoch", ylabel="Loss")
    ax.grid(alpha=0.25)
    ax.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
