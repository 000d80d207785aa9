"""What `python -m fastopt bench` prints and writes: versions, the machine's limits, a table a topic."""

import json
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, repeat
from statistics import geometric_mean

import fastopt as fo
from fastopt.bench._cases import Case, cases
from fastopt.bench._measure import floor, seconds
from fastopt.bench.limits import SIZES, limits

PACKAGES = ("numpy", "torch", "scikit-learn", "glum", "onnxruntime", "openvino", "jax", "optax")
SERVING = ("onnxruntime", "openvino")


def main(topics, threads, path=None) -> None:
    """Run topics for each thread count, print their tables and write the rows to a file."""
    rows: list[dict] = []
    best = {n: limits(n) for n in sorted({1, fo.get_num_threads(), *threads})}
    print_versions()
    print_limits(best)
    for topic in topics:
        compared = [case for case in cases(topic) if case.peers]
        for n in threads if compared else ():
            peers = print_header(topic, compared, n)
            before = len(rows)
            for case in compared:
                try:
                    rows.append(run_case(topic, case, n, best[n]))
                except ImportError as error:  # of what the case itself needs
                    print(f"{case.what}: left out ({error})", flush=True)
                else:
                    print_row(rows[-1], peers)
            print_families(rows[before:])
    if path:
        with open(path, "w") as stream:
            json.dump({"config": fo.config(), "versions": versions(), "limits": best, "rows": rows}, stream, indent=1)


def run_case(topic: str, case: Case, threads: int, best: dict) -> dict:
    """One row: microseconds by side, ratios peer / ours, and the limit."""
    us = {name: 1e6 * time for name, time in seconds(case, threads).items()}
    least = 1e6 * floor(case, best)
    row = {"topic": topic, "what": case.what, "family": case.family, "threads": threads, "us": us}
    row["ratio"] = {name: value / us["ours"] for name, value in us.items() if name != "ours"}
    return row | ({"limit_us": least, "of_limit": least / us["ours"]} if least else {})


def versions() -> dict[str, str]:
    """fastopt and the peers, "-" for those that are not installed."""
    found = {"fastopt": f"{fo.__version__} ({fo.config()['isa']})"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


# ---------------------------------------------------------------- printing


def print_versions() -> None:
    found = versions()
    print("; ".join(f"{name} {value}" for name, value in found.items()))
    missing = [name for name, value in found.items() if value == "-"]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}")


def print_limits(best) -> None:
    print("\nlimits of this machine, best of several runs")
    print_table_row(["threads", "GFLOP/s", *(f"{mib} MiB GB/s" for mib in SIZES)], (10, 12, 16, 16))
    for n, rates in best.items():
        print_table_row([str(n), *(f"{rate / 1e9:.0f}" for rate in rates.values())], (10, 12, 16, 16))


def print_header(topic, compared, threads) -> list[str]:
    """Head of a table; returns the peers that have a column in it. The first case has the dtype of most."""
    peers = list(dict.fromkeys(name for case in compared for name in case.peers))
    print(f"\n{topic}, {compared[0].dtype}, {threads} thread{'s' * (threads > 1)}; µs (ratio peer / ours)")
    print_table_row(["", "ours µs", "limit µs", "of limit", *peers])
    return peers


def print_row(row, peers) -> None:
    least = [f"{row['limit_us']:.2f}", f"{row['of_limit']:.0%}"] if "limit_us" in row else ["-", "-"]
    beside = [f"{row['us'][p]:.1f} ({row['ratio'][p]:.2f}x)" if p in row["us"] else "-" for p in peers]
    print_table_row([row["what"], f"{row['us']['ours']:.2f}", *least, *beside])


def print_families(rows) -> None:
    """A line for each family of rows: geometric mean and least of the ratios, and of the limit's shares."""
    for family in dict.fromkeys(row["family"] for row in rows if row["family"]):
        members = [row for row in rows if row["family"] == family]
        ratios: dict[str, list[float]] = {}
        for row in members:
            for rival, ratio in best_ratios(row).items():
                ratios.setdefault(rival, []).append(ratio)
        found = [f"{rival} {geometric_mean(r):.2f}x (least {min(r):.2f}x)" for rival, r in ratios.items()]
        shares = [row["of_limit"] for row in members if "of_limit" in row]
        found += [f"of limit {geometric_mean(shares):.0%} (least {min(shares):.0%})"] if shares else []
        print(f"geometric mean of {len(members)}, {family}: {', '.join(found) or '-'}", flush=True)


def best_ratios(row) -> dict[str, float]:
    """The fastest peer of each kind: of a library's layouts, and of the serving engines."""
    best: dict[str, float] = {}
    for peer, ratio in row["ratio"].items():
        package = peer.split()[0]
        rival = " or ".join(SERVING) if package in SERVING else package
        best[rival] = min(ratio, best.get(rival, ratio))
    return best


def print_table_row(cells, widths=(44, 11, 11, 9)) -> None:
    """The first cell stands to the left, the others to the right; those beyond `widths` are peers."""
    (first, width), *others = zip(cells, chain(widths, repeat(18)), strict=False)
    print((f"{first:<{width}}" + "".join(f"{cell:>{width}}" for cell, width in others)).rstrip(), flush=True)
