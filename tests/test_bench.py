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
from fastopt.bench import _measure, _report, limits
from fastopt.bench._networks import IMAGE_PEERS, ROW_PEERS, inference_case
from fastopt.cli import main

PEER_MODULES = ("torch", "sklearn", "glum", "onnxruntime", "onnx", "openvino", "jax", "optax")
ASV = Path(__file__).parents[1] / "asv_benchmarks" / "benchmarks"
LARGE = re.compile("16000000|4096x4096|100000x50|20000x|softmax digits|100x1000")  # cases that take most of the time


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
    return lambda topic: importlib.import_module(f"benchmarks.{topic}")


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
    compared = [case.what for case in bench.cases(topic) if case.peers]
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


def test_a_family_of_rows_has_means_of_the_best_peer_of_each_kind(monkeypatch, capsys):
    rows = {
        "a": {"torch": 2.0, "torch nhwc": 4.0, "onnxruntime": 3.0, "openvino": 1.5},
        "b": {"torch": 32.0, "torch nhwc": 8.0, "onnxruntime": 6.0},
        "c": {"torch": 0.1},
    }
    cases = [bench.Case(what, tuple, list, {"torch": list}, family="ab" * (what != "c")) for what in rows]
    monkeypatch.setattr(_report, "cases", lambda topic: cases)
    monkeypatch.setattr(_report, "seconds", lambda case, threads: {"ours": 1.0, **rows[case.what]})
    monkeypatch.setattr(_report, "limits", lambda threads: {"fma": 1.0, **dict.fromkeys(_report.SIZES, 1.0)})
    bench.main(["dense"], [1])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("geometric mean")]
    assert line == ("geometric mean of 2, ab: torch 4.00x (least 2.00x), onnxruntime or openvino 3.00x (least 1.50x)")


@pytest.mark.parametrize(
    ("moved", "flops", "dtype", "least"),
    [
        (1 << 18, 0, "float32", 0.5),
        (1 << 17, 0, "float64", 0.5),
        (1 << 17, 0, "float32", 0.0),
        (1 << 19, 0, "float32", 2.0),
        (0, 30, "float32", 3.0),
        (0, 30, "float64", 6.0),
    ],
)
def test_the_limit_is_the_larger_of_arithmetic_and_memory(moved, flops, dtype, least):
    best = {"fma": 10, 1: 1 << 21, 16: 1 << 20, 256: 1 << 19}
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
        assert set(times) <= {"ours", *case.peers}
        assert min(times.values()) > 0


# ---------------------------------------------------------------- over commits


@pytest.mark.parametrize("topic", [t for t in bench.TOPICS if t != "limits"])
def test_asv_prepares_and_runs_every_case_without_any_peer(topic, asv, alone):
    benchmark, threads = asv(topic).Cases(), fo.get_num_threads()
    for what in benchmark.params[1]:
        if not LARGE.search(what):  # which test_every_side_that_is_installed_runs runs
            assert benchmark.track_ours(1, what) > 0
    assert fo.get_num_threads() == threads


@pytest.mark.parametrize("topic", [t for t in bench.TOPICS if t != "limits"])
def test_asv_and_bench_have_the_same_cases(topic, asv):
    assert asv(topic).Cases.params == [[1, 2], [case.what for case in bench.cases(topic)]]


def test_asv_tracks_the_limits(asv, hasty):
    module = asv("limits")
    assert module.Limits().track_fma(1) > 0
    assert module.Read().track_read(1, 1) > 0
