"""`python -m fastopt bench` and asv_benchmarks: one list of topics, one set of cases; peers load where used."""

import importlib
import json
import re
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

import fastopt as fo
from fastopt import bench
from fastopt.bench import _earlier, _measure, _ranks, _report, inception, kernels, limits
from fastopt.bench._networks import IMAGE_PEERS, ROW_PEERS, inference_case
from fastopt.cli import main
from fastopt.optim.named import RULES

PEER_MODULES = ("torch", "sklearn", "glum", "onnxruntime", "onnx", "openvino", "jax", "optax", "tensorly")
ASV = Path(__file__).parents[1] / "asv_benchmarks" / "benchmarks"
# cases that take most of the time
LARGE = re.compile(
    "16000000|4096x4096|100000x50|20000x|softmax digits|100x1000|inception_v1, batch (4|16)|lenet, batch 128"
    "|convolutions of "
)


def modules(folder):
    return {path.stem for path in Path(folder).glob("*.py") if not path.stem.startswith("_")}


@pytest.fixture
def hasty(monkeypatch):
    """No patience for exact times."""
    monkeypatch.setattr(_measure, "REPEATS", 1)
    monkeypatch.setattr(_measure, "SECONDS", 1e-9)
    monkeypatch.setattr(_measure, "PAUSE", 0)
    monkeypatch.setattr(limits, "SIZES", (1,))
    monkeypatch.setattr(_report, "SIZES", (1,))


@pytest.fixture
def alone(monkeypatch, hasty):
    """No peers installed."""
    for name in PEER_MODULES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def asv(monkeypatch):
    """The module of asv_benchmarks of a topic."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(ASV.parent)
    return lambda topic: importlib.import_module(f"benchmarks.{topic}" if topic else "benchmarks")


# ---------------------------------------------------------------- topics and cases


def test_the_list_of_topics_is_the_folder():
    assert set(bench.TOPICS) == modules(Path(bench.__file__).parent)
    assert set(bench.TOPICS) == modules(ASV)


@pytest.mark.parametrize("topic", bench.TOPICS)
def test_the_cases_of_a_topic_have_names_of_their_own(topic):
    names = [case.what for case in bench.cases(topic)]
    assert len(set(names)) == len(names)
    assert names or topic == "limits"


def test_the_help_of_the_command_line_lists_the_topics(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--help"])
    assert f"of {', '.join(bench.TOPICS)}; all by default" in " ".join(capsys.readouterr().out.split())


def test_no_peer_is_loaded_before_a_case_is_prepared(python):
    loaded = python(f"""
import sys
from fastopt import bench, cli
assert all(case.what for topic in bench.TOPICS for case in bench.cases(topic))
print(sorted({set(PEER_MODULES)} & set(sys.modules)))
""")
    assert loaded == "[]\n"


@pytest.mark.parametrize("side", ["ours", "torch"])
def test_each_side_of_a_case_works_on_arrays_of_its_own(side):
    made, given = [], []
    case = bench.Case("", lambda: made.append(np.zeros(1)) or (made[-1],), given.append, {"torch": given.append})
    case.call(side)
    case.call(side)
    assert given[0] is made[0]
    assert given[1] is made[1]


def images():
    """A network of every kind of layer that peers take over."""
    branches = [[fo.nn.Conv2d(8, 6, 1)], [fo.nn.MaxPool2d(3, 1, 1), fo.nn.Conv2d(8, 4, (1, 3), padding="same")]]
    layers = [
        fo.nn.Conv2d(3, 8, 5, 2, 1, bias=False),
        fo.nn.BatchNorm(8, activation="relu"),
        fo.nn.Concat(branches),
        fo.nn.MaxPool2d(2, ceil_mode=True),
        fo.nn.Conv2d(10, 12, 3, padding=2, dilation=2, groups=2, activation="relu"),
        fo.nn.GlobalAvgPool2d(),
        fo.nn.Dropout(0.5),
        fo.nn.Dense(12, 7),
    ]
    return fo.nn.Sequential(layers, rng=0, input_shape=(13, 16, 3))


def image():
    return fo.nn.Sequential([fo.nn.Conv2d(3, 5, 3, 2, activation="relu")], rng=0, input_shape=(13, 16, 3))


def rows():
    return fo.nn.Sequential([fo.nn.Dense(9, 16, "relu"), fo.nn.Dense(16, 5)], rng=0)


def test_the_work_of_published_networks_is_that_of_their_summary():
    layers = fo.nn.models.inception_v1_layers(batch_norm=False)
    totals = fo.nn.summary(layers, input_shape=(224, 224, 3)).splitlines()[-1]
    assert f" {inception.MULTIPLY_ADDS:,} " in totals
    totals = fo.nn.summary(fo.nn.models.lenet_layers(), input_shape=(28, 28, 1)).splitlines()[-1]
    assert f" {sum(work for work, _ in inception.LENET.values()):,} " in totals


PEERS = [(make, peer) for make in (rows, image, images) for peer in (ROW_PEERS if make is rows else IMAGE_PEERS)]


@pytest.mark.parametrize(("make", "peer"), PEERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_peers_network_computes_what_ours_does(make, peer):
    case = inference_case("", make, (3, *make().input_shape), (peer,), 0, 0)
    ours = case.call()()
    try:
        theirs = case.call(peer)()
    except ImportError as error:
        pytest.skip(f"not installed: {error}")
    theirs = np.asarray(theirs if peer.startswith("torch") else first_of(theirs))
    if ours.ndim == 4 and peer != "openvino nhwc":
        theirs = theirs.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def first_of(outputs):
    """ONNX Runtime gives a list, OpenVINO a dict."""
    return next(iter(outputs.values() if hasattr(outputs, "values") else outputs))


# ---------------------------------------------------------------- what is printed


@pytest.mark.parametrize("topic", ["limits", "maxout", "standardize", "regularization"])
def test_bench_prints_a_row_for_each_case_that_has_peers_without_any_of_them(topic, alone, tmp_path, capsys):
    assert main(["bench", topic, "--threads", "1", "2", "--json", str(tmp_path / "rows.json")]) == 0
    out, document = capsys.readouterr().out, json.loads((tmp_path / "rows.json").read_text())
    assert "GFLOP/s" in out
    assert document["limits"]["1"]["fma"] > 0
    for row in document["rows"]:
        assert row["what"] in out
        assert row["us"]["ours"] > 0
        assert set(row["us"]) <= {"ours", "numpy", "dense", "plain"}
    compared = [case.what for case in bench.cases(topic) if len(case.sides) > 1]
    assert [(row["threads"], row["what"]) for row in document["rows"]] == [(n, w) for n in (1, 2) for w in compared]


def test_peers_that_are_not_installed_and_cases_that_need_them_get_a_line(alone, monkeypatch, capsys):
    def needs_sklearn():
        import sklearn

        return sklearn.datasets.load_digits()

    def needs_jax(x):
        import jax

        return jax.numpy.asarray(x).sum

    def installed(name):
        if name in ("jax", "scikit-learn"):
            raise PackageNotFoundError
        return "1.0"

    cases = [
        bench.Case("zeros", lambda: (np.zeros(1),), lambda x: x.sum, {"jax": needs_jax}),
        bench.Case("digits", needs_sklearn, lambda X, y: X.sum, {"numpy": lambda X, y: X.sum}),
        bench.Case("for commits only", needs_sklearn, lambda X, y: X.sum),
    ]
    monkeypatch.setattr(_report, "cases", lambda topic: cases)
    monkeypatch.setattr(_report, "version", installed)
    bench.main(["dense"], [1])
    out = capsys.readouterr().out
    assert "not installed, so left out: scikit-learn, jax\n" in out
    assert re.search(r"^zeros .* -$", out, re.M)
    assert re.search(r"^digits: left out \(.*sklearn.*\)$", out, re.M)
    assert "for commits only" not in out


@pytest.fixture
def measured(monkeypatch):
    """Cases of every topic, and how long their sides take: a function of case and threads."""

    def measure(cases, seconds):
        monkeypatch.setattr(_report, "cases", lambda topic: cases)
        monkeypatch.setattr(_report, "seconds", seconds)
        monkeypatch.setattr(_report, "limits", lambda threads: {"fma": 1e11, 1: 3e9})

    return measure


def test_a_family_of_rows_has_means_of_the_best_peer_of_each_kind(measured, capsys):
    rows = {
        "a": {"torch": 2.0, "torch nhwc": 4.0, "onnxruntime": 3.0, "openvino": 1.5},
        "b": {"torch": 32.0, "torch nhwc": 8.0, "onnxruntime": 6.0},
        "c": {"torch": 0.1},
    }
    cases = [bench.Case(what, tuple, list, {"torch": list}, family="ab" * (what != "c")) for what in rows]
    measured(cases, lambda case, threads: {"ours": 1.0, **rows[case.what]})
    bench.main(["dense"], [1])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("geometric mean")]
    assert lines == [
        "geometric mean of 2, ab: best peer 3.00x (least 1.50x), torch 4.00x (least 2.00x),"
        " onnxruntime or openvino 3.00x (least 1.50x)",
        "geometric mean of 1, dense: torch 0.10x (least 0.10x)",
    ]


def test_a_yardstick_is_no_peer_and_a_side_that_moves_memory_is_the_limit(measured, tmp_path, capsys):
    case = bench.Case("a", tuple, list, {"torch": list}, yardsticks={"plain": list}, limit=list)
    measured([case], lambda case, threads: {"ours": 4e-6, "torch": 8e-6, "plain": 2e-6, "limit": 3e-6})
    bench.main(["dense"], [1], tmp_path / "rows.json")
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["us"].keys() == {"ours", "torch", "plain"}
    assert (row["best"], row["limit_us"], row["of_limit"]) == ("torch", pytest.approx(3.0), pytest.approx(0.75))
    assert re.search(r"^a +4\.00 +3\.00 +75% +- +8\.0 \(2\.00x\) +2\.0 \(0\.50x\)$", capsys.readouterr().out, re.M)


def test_more_threads_are_compared_with_one_in_any_order(measured, tmp_path, capsys):
    cases = [bench.Case(what, tuple, list, {"torch": list}) for what in ("a", "b")]
    measured(cases, lambda case, threads: {"ours": 1.0 if case.what == "a" else 4.0 / threads})
    bench.main(["dense"], [2, 1], tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["threads"], row.get("speedup")) for row in rows] == [(1, None), (1, None), (2, 1.0), (2, 2.0)]
    assert "geometric mean of 2, dense: over 1 thread 1.41x (least 1.00x)\n" in capsys.readouterr().out


# ---------------------------------------------------------------- another build


def test_another_build_runs_the_same_cases_and_is_no_peer(alone, tmp_path, capsys):
    build, path = Path(fo.__file__).parents[1], str(tmp_path / "rows.json")
    assert main(["bench", "standardize", "--earlier", str(build), "--threads", "2", "--json", path]) == 0
    assert re.search("^ .* earlier$", capsys.readouterr().out, re.M)
    rows = json.loads(Path(path).read_text())["rows"]
    assert len(rows) == 3
    for row in rows:
        assert row["us"]["earlier"] > 0
        assert row["best"] == "numpy"


def test_what_another_build_cannot_run_is_left_out():
    with _earlier.started(Path(fo.__file__).parents[1]) as build:
        case = build.beside(bench.Case("in no topic", tuple, list), "standardize")
        with pytest.raises(ImportError, match="ValueError"):
            case.call("earlier")
        known = build.beside(next(bench.cases("standardize")), "standardize")
        assert known.call("earlier").timeit(3) > 0


def test_a_build_that_ends_is_an_error():
    with _earlier.started(Path(fo.__file__).parents[1]) as build:
        build.process.kill()
        build.process.wait()
        with pytest.raises(ValueError, match="--earlier: the other build has ended"):
            build.timeit(1)


@pytest.mark.parametrize("files", [(), ("fastopt/__init__.py",)], ids=["nothing", "not a build"])
def test_a_folder_without_a_build_is_refused(files, tmp_path, capsys):
    for file in files:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    assert main(["bench", "limits", "--earlier", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert err == f"fastopt bench: --earlier: expected a folder with a build of fastopt, got {tmp_path}\n"
    assert out == ""


# ---------------------------------------------------------------- pages


PAGE = """before
<!-- bench: machine -->
<!-- end of bench -->
<!-- bench: families -->
what stood here
<!-- end of bench -->
between
<!-- bench: rows -->
<!-- end of bench -->
after
"""
TABLES = """<!-- bench: families -->

| work | rows | of the limit | best peer | nearest peer | 2 threads over 1 |
| --- | --- | --- | --- | --- | --- |
| f | 2 | 50% (25%) | 4.00× (2.00×) | jax | 1.00× (0.50×) |
| dense | 1 |  | 0.50× | (plain) | 2.00× |

<!-- end of bench -->
between
<!-- bench: rows -->

| work | fastopt, µs | of the limit | best peer | its time / ours | 2 threads over 1 |
| --- | --- | --- | --- | --- | --- |
| a | 2.00 | 25% | torch | 8.00× | 0.50× |
| b | 40.0 | 100% | jax | 2.00× | 2.00× |
| c | 12 346 |  | (plain) | 0.50× | 2.00× |

<!-- end of bench -->
after
"""


@pytest.fixture
def rows_file(measured, tmp_path, capsys):
    """A file of three rows at two thread counts."""
    cases = [bench.Case(what, tuple, list, {"torch": list}, family="f", limit=list) for what in ("a", "b")]
    cases.append(bench.Case("c", tuple, list, yardsticks={"plain": list}))
    us = {
        "a": {1: {"ours": 2, "torch": 16, "limit": 0.5}, 2: {"ours": 4}},
        "b": {1: {"ours": 40, "torch": 90, "jax": 80, "limit": 40}, 2: {"ours": 20}},
        "c": {1: {"ours": 12345.6, "plain": 6172.8}, 2: {"ours": 6172.8}},
    }
    measured(cases, lambda case, threads: {name: 1e-6 * value for name, value in us[case.what][threads].items()})
    bench.main(["dense"], [1, 2], tmp_path / "rows.json")
    return str(tmp_path / "rows.json")


def test_rows_go_into_pages_between_their_marks_as_often_as_wanted(rows_file, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for _ in range(2):
        assert main(["bench", "--markdown", rows_file, str(page)]) == 0
        machine, tables = page.read_text().split("<!-- end of bench -->\n", 1)
        assert tables == TABLES
        assert machine.startswith(f"before\n<!-- bench: machine -->\n\nfastopt {fo.__version__} (")
        assert machine.endswith("On 1 thread: 100 GFLOP/s, and reading 3 GB/s of 1 MiB.\n\n")


@pytest.mark.parametrize(
    ("text", "rows", "complaint"),
    [
        ("no marks", None, "expected <!-- bench: machine --> or .* in .*page.md$"),
        ("<!-- bench: rows -->\n", None, "and <!-- end of bench --> below it, in .*page.md$"),
        ("<!-- bench: tea -->\n<!-- end of bench -->\n", None, "expected <!-- bench: machine --> or"),
        (PAGE, "[]", "expected rows that `bench --json` wrote, got .*rows.json$"),
        (PAGE, '{"versions": {}, "limits": {}, "rows": []}', "expected rows that `bench --json` wrote"),
        (PAGE, "|", "expected rows that `bench --json` wrote"),
        ("<!-- bench: machine -->\nkept\n" + PAGE, None, "expected <!-- bench: machine -->"),
    ],
)
def test_no_page_changes_unless_all_can(text, rows, complaint, rows_file, tmp_path, capsys):
    good, page = tmp_path / "good.md", tmp_path / "page.md"
    good.write_text(PAGE)
    page.write_text(text)
    if rows:
        Path(rows_file).write_text(rows)
    capsys.readouterr()
    assert main(["bench", "--markdown", rows_file, str(good), str(page)]) == 2
    assert re.search(f"^fastopt bench: --markdown: .*{complaint}", capsys.readouterr().err)
    assert (good.read_text(), page.read_text()) == (PAGE, text)


@pytest.mark.parametrize("argv", [["r.json"], ["r.json", "p.md", "--json", "s.json"]], ids=["no page", "--json"])
def test_markdown_takes_rows_and_pages_only(argv, capsys):
    assert main(["bench", "--markdown", *argv]) == 2
    assert capsys.readouterr().err.startswith("fastopt bench: --markdown: expected a file of rows and pages")


@pytest.mark.parametrize(
    ("moved", "flops", "dtype", "least"),
    [
        (1 << 18, 0, "float32", 0.5),
        (1 << 17, 0, "float64", 0.5),
        (1 << 17, 0, "float32", 0.0),
        (1 << 19, 0, "float32", 1.0),
        (1 << 22, 0, "float32", 16.0),
        (0, 30, "float32", 3.0),
        (0, 30, "float64", 6.0),
    ],
)
def test_the_limit_is_the_larger_of_arithmetic_and_memory(moved, flops, dtype, least):
    best = {"fma": 10, 1: 1 << 21, 4: 1 << 21, 16: 1 << 20, 64: 1 << 20, 256: 1 << 19}
    case = bench.Case("", tuple, list, {}, flops, moved, dtype)
    assert _measure.floor(case, best) == least


@pytest.mark.slow
@pytest.mark.parametrize("topic", bench.TOPICS)
def test_every_side_that_is_installed_runs(topic, hasty):
    for case in bench.cases(topic):
        try:
            times = bench.seconds(case, 1)
        except ImportError:  # the digits need scikit-learn
            continue
        assert set(times) <= set(case.sides)
        assert min(times.values()) > 0


# ---------------------------------------------------------------- over commits


@pytest.mark.parametrize("topic", [t for t in bench.TOPICS if t not in ("limits", "kernels", "estimators", "parallel")])
def test_asv_prepares_and_runs_every_case_without_any_peer(topic, asv, alone):
    benchmark, threads = asv(topic).Cases(), fo.get_num_threads()
    for what in benchmark.params[1]:
        if not LARGE.search(what):  # which test_every_side_that_is_installed_runs runs
            assert benchmark.track_ours(1, what) > 0
    assert fo.get_num_threads() == threads


def test_asv_times_ranks_or_says_why_not(asv, alone):
    benchmark = asv("parallel").Cases()
    case = next(what for what in benchmark.params[1] if "64-128" in what)
    with pytest.raises(NotImplementedError, match="one thread each"):
        benchmark.setup(2, case)
    try:
        benchmark.setup(1, case)
    except NotImplementedError as error:
        pytest.skip(str(error))
    assert benchmark.track_ours(1, case) > 0


def test_without_a_launcher_or_mpi4py_ranks_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match="no mpi4py: pip install"):
        _ranks.require_ranks(1)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setenv("PATH", "")
    _ranks.launcher.cache_clear()
    with pytest.raises(ImportError, match="no mpiexec beside this Python"):
        _ranks.launcher(1)


def test_ranks_that_end_say_why():
    with pytest.raises(ImportError, match="the ranks have ended: ValueError: no"):
        _ranks.Job([[sys.executable, "-c", "raise ValueError('no')"]])


@pytest.mark.parametrize("topic", [t for t in bench.TOPICS if t not in ("limits", "kernels")])
def test_asv_and_bench_have_the_same_cases(topic, asv):
    cases, threads = asv(topic).Cases, asv("").THREADS
    assert cases.params == [threads, [case.what for case in bench.cases(topic)]]
    assert cases.version == asv("").VERSION


def test_every_public_kernel_is_watched_in_both_dtypes_five_sizes_and_all_thread_counts(asv):
    public = {*fo.functional.__all__, *RULES, "glm"}
    assert set(kernels.KERNELS) == public
    for name in public:
        benchmark, kernel = getattr(asv("kernels"), name), kernels.KERNELS[name]
        assert benchmark.params == [asv("").THREADS, ["float32", "float64"], list(kernel.sizes)]
        assert len(set(kernel.sizes)) == 5
        assert benchmark.__name__ == name


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_asv_runs_every_kernel_at_its_smallest_size(name, asv, hasty):
    benchmark, kernel = getattr(asv("kernels"), name)(), kernels.KERNELS[name]
    for dtype in kernels.DTYPES:
        assert benchmark.track_seconds(1, dtype, kernel.sizes[0]) > 0


@pytest.mark.parametrize(
    ("granted", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_thread_counts_are_powers_of_two_and_all_that_are_granted(granted, counts, asv):
    assert asv("").thread_counts(granted) == counts
    assert asv("").thread_counts(fo.get_num_threads()) == asv("").THREADS


def test_asv_tracks_the_limits_and_how_near_kernels_come(asv, hasty, monkeypatch):
    module = asv("limits")
    assert module.Limits().track_fma(1) > 0
    assert module.Read().track_read(1, 1) > 0
    assert set(module.Kernels.params[1]) == set(kernels.KERNELS) - {"NewtonCG", "glm"}
    assert all(
        _measure.floor(case, {"fma": 1e11, 1: 1e10}) > 0 for case in map(module.LARGEST.get, module.Kernels.params[1])
    )
    assert module.Kernels().track_share(1, "conv2d") > 0
    monkeypatch.setattr(module, "floor", lambda case, best: 0.0)
    with pytest.raises(ValueError, match=r"^conv2d: no limit is known of conv2d, 128 channels, float32"):
        module.Kernels().track_share(1, "conv2d")


def test_asv_watches_memory_and_the_import(asv):
    module = asv("overhead")
    assert module.timeraw_import() == "import fastopt"
    for name in ("import", "predict", "step"):
        getattr(module.Memory(), f"peakmem_{name}")()
