"""`fastopt tune`: rows per second of a saved network, or the numbers that kernels are tuned with."""

import json

import fastopt as fo
from fastopt import _files, bench
from fastopt._numbers import whole_number
from fastopt.cli._options import check_out, check_plot, flush

HELP = "measure rows per second of a saved network over batch sizes and threads, or the numbers of this processor"
TUNING = "tuning.json"


def add_options(parser) -> None:
    """The options of the command."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a .safetensors file")
    text = "measure the numbers that kernels are tuned with, and write those that FASTOPT_TUNING should override"
    parser.add_argument("--machine", action="store_true", help=text)
    parser.add_argument("--train", action="store_true", help="training steps instead of predictions")
    parser.add_argument("--batch-sizes", nargs="+", type=int, metavar="N", help="(default: 1, 2, 4, ... 1024)")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="thread counts (default: 1 and all)")
    text = f"draw the rates into this file too (needs matplotlib); of --machine, the file (default: {TUNING})"
    parser.add_argument("--out", metavar="FILE", help=text)


def run(args) -> None:
    """Measure, print, and draw where that is asked for."""
    if args.machine:
        _tune_machine(args)
        return
    if args.model is None:
        raise ValueError("MODEL: expected a file, or --machine for the numbers of this processor")
    for option, numbers in (("--batch-sizes", args.batch_sizes), ("--threads", args.threads)):
        for n in numbers or ():
            whole_number(option, n)
    check_out("--out", args.out, args.model)
    if args.out:
        check_plot("--out", args.out)
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
    check_out("--out", out)
    config = fo.config()
    print(f"processor: {config['processor']}, isa {config['isa']}, one thread")
    better = {}
    for measured in bench.tune_processor():
        print(f"\n{measured.table()}")
        flush()
        if measured.best != measured.own:
            better[measured.name] = measured.best
    _files.write_bytes(out, f"{json.dumps(better, indent=1)}\n".encode())
    found = ", ".join(better) if better else "nothing, for the table's numbers suit this machine"
    print(f"\nwrote {out}: {found}; FASTOPT_TUNING={out} uses it")
