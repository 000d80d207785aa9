"""What `python -m fastopt bench` prints and writes: versions, the machine's limits, a table a topic.

Rows are dicts, as the file of `--json` has them: us, microseconds by side; ratio, peer / ours; best, the peer
whose ratio is least; limit_us and of_limit, where a limit is known; speedup over one thread, where both ran.
"""

import json
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, repeat
from statistics import geometric_mean

import fastopt as fo
from fastopt.bench import _earlier
from fastopt.bench._cases import Case, cases
from fastopt.bench._measure import floor, seconds
from fastopt.bench.limits import SIZES, limits

TENSORS = ("tensorly", "tensorly-torch")
PACKAGES = ("numpy", "torch", "scikit-learn", "glum", "onnxruntime", "openvino", "jax", "optax", *TENSORS)
SERVING = ("onnxruntime", "openvino")


def main(topics, threads, path=None, earlier=None) -> None:
    """Run topics for each thread count, print their tables and write the rows to a file."""
    threads = sorted(set(threads))
    with _earlier.started(earlier) if earlier else nullcontext() as build:
        best = {n: limits(n) for n in sorted({1, fo.get_num_threads(), *threads})}
        print_versions()
        print_limits(best)
        rows = [row for topic in topics for row in run_topic(topic, threads, best, build)]
    if path:
        with open(path, "w") as stream:
            json.dump({"config": fo.config(), "versions": versions(), "limits": best, "rows": rows}, stream, indent=1)


def run_topic(topic, threads, best, build) -> list[dict]:
    """Rows of a topic, printed as they come."""
    rows: list[dict] = []
    compared = [build.beside(case, topic) if build else case for case in cases(topic) if len(case.sides) > 1]
    alone: dict[str, float] = {}  # microseconds of a case on one thread
    for n in threads if compared else ():
        columns = print_header(topic, compared, n)
        before = len(rows)
        for case in compared:
            try:
                rows.append(run_case(topic, case, n, best[n], alone))
            except ImportError as error:  # of what the case itself needs
                print(f"{case.what}: left out ({error})", flush=True)
            else:
                print_row(rows[-1], columns)
        print_families(rows[before:])
    return rows


def run_case(topic: str, case: Case, threads: int, best: dict, alone: dict) -> dict:
    """One row; `alone` is asked for, or told, the time on one thread."""
    us = {name: 1e6 * time for name, time in seconds(case, threads).items()}
    least = us.pop("limit", 1e6 * floor(case, best))
    ratio = {name: value / us["ours"] for name, value in us.items() if name != "ours"}
    row = {"topic": topic, "what": case.what, "family": case.family or topic, "threads": threads}
    row |= {"us": us, "ratio": ratio}
    peers = {name: value for name, value in ratio.items() if name not in case.yardsticks}
    if peers:
        row["best"] = min(peers, key=peers.__getitem__)
    if least:
        row |= {"limit_us": least, "of_limit": least / us["ours"]}
    if threads == 1:
        alone[case.what] = us["ours"]
    elif case.what in alone:
        row["speedup"] = alone[case.what] / us["ours"]
    return row


def versions() -> dict[str, str]:
    """fastopt and the peers, "-" for those that are not installed."""
    found = {"fastopt": f"{fo.__version__} ({fo.config()['isa']})"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


# ---------------------------------------------------------------- families of rows


def families(rows) -> dict[str, list[dict]]:
    """The rows of each family; those of a topic are one where it names none."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return found


def rivals(members) -> dict[str, list[float]]:
    """The ratios of the best peer of each row; where there are several kinds of peers, those of each kind, too."""
    found: dict[str, list[float]] = {}
    for row in members:
        for rival, ratio in best_ratios(row).items():
            found.setdefault(rival, []).append(ratio)
    best = [row["ratio"][row["best"]] for row in members if "best" in row]
    return {"best peer": best, **found} if best and len(found) > 1 else found


def best_ratios(row) -> dict[str, float]:
    """The fastest peer of each kind: of a library's layouts, and of the serving engines."""
    best: dict[str, float] = {}
    for peer, ratio in row["ratio"].items():
        package = peer.split()[0]
        rival = " or ".join(SERVING) if package in SERVING else package
        best[rival] = min(ratio, best.get(rival, ratio))
    return best


# ---------------------------------------------------------------- printing


def print_versions() -> None:
    found = versions()
    print("; ".join(f"{name} {value}" for name, value in found.items()))
    missing = [name for name, value in found.items() if value == "-"]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}")


def print_limits(best) -> None:
    print("\nlimits of this machine, best of several runs")
    widths = (10, 12, *[14] * len(SIZES))
    print_table_row(["threads", "GFLOP/s", *(f"{mib} MiB GB/s" for mib in SIZES)], widths)
    for n, rates in best.items():
        print_table_row([str(n), *(f"{rate / 1e9:.0f}" for rate in rates.values())], widths)


def print_header(topic, compared, threads) -> list[str]:
    """Head of a table; returns the sides that have a column in it. The first case has the dtype of most."""
    columns = list(dict.fromkeys(name for case in compared for name in (*case.peers, *case.yardsticks)))
    print(f"\n{topic}, {compared[0].dtype}, {threads} thread{'s' * (threads > 1)}; µs (ratio peer / ours)")
    print_table_row(["", "ours µs", "limit µs", "of limit", "over 1", *columns])
    return columns


def print_row(row, columns) -> None:
    least = [f"{row['limit_us']:.2f}", f"{row['of_limit']:.0%}"] if "limit_us" in row else ["-", "-"]
    speedup = f"{row['speedup']:.2f}x" if "speedup" in row else "-"
    beside = [f"{row['us'][p]:.1f} ({row['ratio'][p]:.2f}x)" if p in row["us"] else "-" for p in columns]
    print_table_row([row["what"], f"{row['us']['ours']:.2f}", *least, speedup, *beside])


def print_families(rows) -> None:
    """A line for each family of rows: geometric mean and least of ratios, of the limit's shares, and of speedups."""
    for family, members in families(rows).items():
        found = [f"{rival} {spread(ratios)}" for rival, ratios in rivals(members).items()]
        shares = [row["of_limit"] for row in members if "of_limit" in row]
        found += [f"of limit {geometric_mean(shares):.0%} (least {min(shares):.0%})"] if shares else []
        speedups = [row["speedup"] for row in members if "speedup" in row]
        found += [f"over 1 thread {spread(speedups)}"] if speedups else []
        print(f"geometric mean of {len(members)}, {family}: {', '.join(found) or '-'}", flush=True)


def spread(ratios) -> str:
    """Geometric mean and least."""
    return f"{geometric_mean(ratios):.2f}x (least {min(ratios):.2f}x)"


def print_table_row(cells, widths=(44, 11, 11, 9, 8)) -> None:
    """The first cell stands to the left, the others to the right; those beyond `widths` are peers."""
    (first, width), *others = zip(cells, chain(widths, repeat(18)), strict=False)
    print((f"{first:<{width}}" + "".join(f"{cell:>{width}}" for cell, width in others)).rstrip(), flush=True)
