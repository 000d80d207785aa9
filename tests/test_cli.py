"""The command line: what each command prints and writes, and that mistakes end in one line and status 2."""

import json
import subprocess
import sys

import numpy as np
import pytest

import fastopt as fo
from fastopt import bench
from fastopt.cli import TOPICS, main

PEER_MODULES = ("torch", "sklearn", "onnxruntime", "onnx", "jax", "optax")


@pytest.fixture
def classes(tmp_path):
    """A .npz file of two well separated classes."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    np.savez(tmp_path / "classes.npz", X=rng.standard_normal((200, 4)) + 4 * y[:, None], y=y)
    return tmp_path / "classes.npz"


@pytest.fixture
def model(classes, tmp_path, capsys):
    """A network trained on them by the command line."""
    assert (
        main(["train", str(classes), "--hidden", "8", "--epochs", "10", "--out", str(tmp_path / "m.safetensors")]) == 0
    )
    capsys.readouterr()
    return tmp_path / "m.safetensors"


def test_python_m_fastopt_info_shows_the_configuration():
    run = subprocess.run([sys.executable, "-m", "fastopt", "info"], capture_output=True, text=True, check=True)
    assert f"isa: {fo.config()['isa']}" in run.stdout


@pytest.mark.parametrize("argv", [["--help"], ["bench", "--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_shows_examples(argv, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(argv)
    assert "fastopt train digits.csv" in capsys.readouterr().out


# ---------------------------------------------------------------- train, predict and tune


def test_train_learns_classes_and_says_how_well(classes, tmp_path, capsys):
    argv = ["train", str(classes), "--hidden", "8", "--lr", "0.02", "--out", str(tmp_path / "m.safetensors")]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("180 rows, 4 features, 2 classes: loss ")
    assert float(out.split("val_accuracy ")[1].split()[0]) >= 0.9
    assert fo.nn.load(tmp_path / "m.safetensors").out_features == 2


def test_train_is_reproducible(classes, tmp_path):
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        assert main(["train", str(classes), "--epochs", "2", "--seed", "3", "--out", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_tune_prints_the_table_and_the_knees_and_draws_them(model, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    drawing = tmp_path / "tune.png"
    argv = ["tune", str(model), "--train", "--batch-sizes", "1", "4", "--threads", "1", "--out", str(drawing)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("train: rows per second")
    assert "knee at 1 thread: batch " in out
    assert drawing.exists()
    assert main(["tune", str(model), "--batch-sizes", "0"]) == 2
    assert main(["tune", str(model), "--out", str(tmp_path / "missing" / "tune.png")]) == 2


def test_train_takes_any_rule(classes, tmp_path, capsys):
    out = str(tmp_path / "m.safetensors")
    printed = set()
    for rule in ("Adam", "RMSprop"):
        assert main(["train", str(classes), "--epochs", "2", "--optimizer", rule, "--out", out]) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(classes), "--optimizer", "Optimizer"])


def test_train_takes_the_losses_that_fit_the_targets(classes, tmp_path, capsys):
    rng = np.random.default_rng(0)
    values, out = tmp_path / "values.npz", str(tmp_path / "m.safetensors")
    np.savez(values, X=rng.standard_normal((60, 2)), y=rng.standard_normal(60))
    printed = set()
    for loss in ("mse", "mae", "huber"):
        assert main(["train", str(values), "--epochs", "1", "--loss", loss, "--out", out]) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == 3
    for data, loss in ((values, "cross_entropy"), (classes, "mae")):
        assert main(["train", str(data), "--loss", loss, "--out", out]) == 2
        assert (
            f"--loss: expected {'mse or mae or huber' if data == values else 'cross_entropy'} for"
            in capsys.readouterr().err
        )


@pytest.mark.parametrize("header", ["", "a,b,target\n"])
def test_train_and_predict_values_from_csv(header, tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 2))
    rows = "".join(f"{a},{b},{a - 2 * b:.6f}\n" for a, b in X)
    (tmp_path / "data.csv").write_text(header + rows)
    model = str(tmp_path / "m.safetensors")
    argv = ["train", str(tmp_path / "data.csv"), "--hidden", "16", "--epochs", "40", "--lr", "0.01", "--progress"]
    assert main([*argv, "--validation", "0", "--batch-size", "16", "--out", model]) == 0
    assert "300 rows, 2 features, values: loss" in capsys.readouterr().out
    (tmp_path / "new.csv").write_text("1.0,0.5\n0,0\n")
    assert main(["predict", model, str(tmp_path / "new.csv")]) == 0
    values = np.array(capsys.readouterr().out.split(), float)
    np.testing.assert_allclose(values, [0, 0], atol=0.3)


def test_predict_prints_the_class_the_probabilities_or_the_outputs(model, classes, tmp_path, capsys):
    net, X = fo.nn.load(model), np.load(classes)["X"]
    for option, expected in (
        ([], net.predict(X).argmax(1)),
        (["--proba"], net.predict_proba(X)),
        (["--values"], net.predict(X)),
    ):
        assert main(["predict", str(model), str(classes), *option]) == 0
        printed = np.loadtxt(capsys.readouterr().out.splitlines(), delimiter=",")
        np.testing.assert_allclose(printed, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["out.csv", "out.npy"])
def test_predict_writes_a_file(name, model, classes, tmp_path, capsys):
    assert main(["predict", str(model), str(classes), "--out", str(tmp_path / name)]) == 0
    read = np.load if name.endswith(".npy") else np.loadtxt
    expected = fo.nn.load(model).predict(np.load(classes)["X"]).argmax(axis=1)
    np.testing.assert_array_equal(read(tmp_path / name), expected)
    assert capsys.readouterr().out == ""


def test_predict_leaves_out_the_target_column(model, classes, tmp_path, capsys):
    X, y = (np.load(classes)[name] for name in "Xy")
    outputs = []
    for table in (X, np.column_stack([X, y])):
        np.savetxt(tmp_path / "t.csv", table, delimiter=",")
        assert main(["predict", str(model), str(tmp_path / "t.csv")]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


# ---------------------------------------------------------------- mistakes


def write_npz(path, **arrays):
    np.savez(path, **arrays)


MISTAKES = {
    "data.txt": (lambda p: p.write_text("1,2\n"), "expected a .npz or .csv file"),
    "missing.csv": (lambda p: None, "No such file"),
    "empty.csv": (lambda p: p.write_text(""), "expected rows of numbers, got none"),
    "header.csv": (lambda p: p.write_text("a,b\n"), "got nothing below the first line"),
    "words.csv": (lambda p: p.write_text("1,2\n3,four\n"), "expected rows of numbers"),
    "ragged.csv": (lambda p: p.write_text("1,2\n3\n"), "expected rows of numbers"),
    "gaps.csv": (lambda p: p.write_text("1,2000\n2,2020\n"), "expected classes 0, 1, ... without gaps, got 2000, 2020"),
    "nan.csv": (lambda p: p.write_text("1,0\nnan,1\n"), "expected finite values"),
    "text.npz": (lambda p: p.write_text("1,2\n"), "damaged or of another kind"),
    "noy.npz": (lambda p: write_npz(p, X=np.ones((2, 2))), "expected arrays X and y"),
    "flat.npz": (lambda p: write_npz(p, X=np.ones(2), y=np.ones(2)), "expected rows of features"),
    "short.npz": (lambda p: write_npz(p, X=np.ones((3, 2)), y=np.ones(2)), "expected y of shape (3,)"),
    "object.npz": (lambda p: write_npz(p, X=np.array([[None]]), y=np.ones(1)), "damaged or of another kind"),
}


def assert_one_line_and_status_2(argv, message, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize("name", MISTAKES)
def test_unusable_data_gets_one_line_and_status_2(name, tmp_path, capsys):
    make, message = MISTAKES[name]
    make(tmp_path / name)
    argv = ["train", str(tmp_path / name), "--validation", "0", "--out", str(tmp_path / "m.safetensors")]
    assert_one_line_and_status_2(argv, message, capsys)
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--validation", "1"], "--validation: expected a share"),
        (["--epochs", "0"], "epochs: expected a whole number"),
        (["--lr", "-1"], "lr: expected a finite number"),
        (["--hidden", "0"], "expected a whole number"),
        (["--out", "no/such/folder/m.safetensors"], "--out: expected an existing folder"),
    ],
)
def test_options_out_of_range_get_one_line_and_status_2(option, message, classes, capsys):
    assert_one_line_and_status_2(["train", str(classes), *option], message, capsys)


def test_unusable_models_get_one_line_and_status_2(model, classes, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:-8])
    assert_one_line_and_status_2(["predict", str(tmp_path / "cut.safetensors"), str(classes)], "damaged", capsys)
    np.savetxt(tmp_path / "wide.csv", np.ones((2, 9)), delimiter=",")
    assert_one_line_and_status_2(["predict", str(model), str(tmp_path / "wide.csv")], "x: expected shape", capsys)
    fo.nn.Sequential([fo.nn.Dense(4, 1)]).save(tmp_path / "one.safetensors")
    argv = ["predict", str(tmp_path / "one.safetensors"), str(classes), "--proba"]
    assert_one_line_and_status_2(argv, "--proba: expected a network with an output for each class", capsys)


# ---------------------------------------------------------------- bench


@pytest.fixture
def alone(monkeypatch):
    """No peers installed, and no patience for exact times."""
    for name in PEER_MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(bench, "SECONDS", 1e-5)
    monkeypatch.setattr(bench, "PAUSE", 0)
    monkeypatch.setattr(bench, "SIZES", (1,))


@pytest.mark.parametrize("topic", ["limits", "grouped_dense", "maxout", "dropout", "losses", "standardize", "program"])
def test_bench_prints_a_row_a_case_without_any_peer(topic, alone, tmp_path, capsys):
    assert main(["bench", topic, "--threads", "1", "2", "--json", str(tmp_path / "rows.json")]) == 0
    out, document = capsys.readouterr().out, json.loads((tmp_path / "rows.json").read_text())
    assert "GFLOP/s" in out
    assert document["limits"]["1"]["fma"] > 0
    for row in document["rows"]:
        assert row["what"] in out
        assert row["us"]["ours"] > 0
        assert set(row["us"]) <= {"ours", "numpy", "dense"}
    assert {row["threads"] for row in document["rows"]} == (set() if topic == "limits" else {1, 2})


def test_every_topic_of_the_command_line_exists():
    assert set(TOPICS) == {"limits", *bench.TOPICS}


def test_bench_refuses_an_unknown_topic(capsys):
    assert_one_line_and_status_2(["bench", "tea"], "topic: expected some of limits", capsys)
    assert_one_line_and_status_2(["bench", "limits", "--threads", "0"], "expected a number of threads", capsys)
