"""`fastopt compress`: budgets in words, what is printed and written, and that mistakes end in one line."""

import functools
import json

import numpy as np
import pytest

import fastopt as fo
from fastopt.cli import main
from fastopt.cli.compress import parse_budget
from fastopt.lowrank import Timing
from fastopt.lowrank.budgets import multiply_adds


def by_work(nets, batch=1, threads=1, folded=True):
    """Times that are multiply-adds, in nanoseconds, and a microsecond a call."""
    return [Timing(1e-6 + 1e-9 * multiply_adds(net.layers, net.input_shape), 1e-12) for net in nets]


@pytest.fixture(autouse=True)
def times_are_multiply_adds(monkeypatch):
    monkeypatch.setattr(fo.lowrank, "compress", functools.partial(fo.lowrank.compress, measure=by_work))
    monkeypatch.setattr(fo.lowrank, "measure_latency", by_work)


@pytest.fixture
def trained(tmp_path, capsys):
    """A table of three classes, with text, and a network trained on it."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    X = rng.standard_normal((240, 6)) + 3 * np.eye(3)[y] @ rng.standard_normal((3, 6))
    rows = [
        ",".join([*(f"{v:.4f}" for v in x), "ab"[i % 2], ["red", "green", "blue"][c]])
        for i, (x, c) in enumerate(zip(X, y, strict=True))
    ]
    data, model = tmp_path / "data.csv", tmp_path / "model.safetensors"
    data.write_text("\n".join(["a,b,c,d,e,f,kind,color", *rows]) + "\n")
    assert main(["train", str(data), "--hidden", "48", "48", "--epochs", "5", "--out", str(model)]) == 0
    capsys.readouterr()
    return model, data


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("200us", 200, "us"),
        ("3µs", 3, "µs"),
        ("1.5 ms", 1.5, "ms"),
        ("1e-1ms", 0.1, "ms"),
        (".5x", 0.5, "x"),
        ("5e6macs", 5e6, "macs"),
        ("64bytes", 64, "bytes"),
        ("100kB", 100, "kB"),
        ("2MB", 2, "MB"),
    ],
)
def test_a_budget_is_a_number_and_a_unit(text, number, unit):
    assert parse_budget(text) == (number, unit)


@pytest.mark.parametrize("text", ["", "200", "us", "-3us", "0x", "3 meters", "1e999us", "5e6 MACs", "us200", "1,5ms"])
def test_another_budget_ends_in_one_line(trained, text, capsys):
    model, data = trained
    assert main(["compress", str(model), str(data), f"--budget={text}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastopt compress: --budget: expected ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("budget", ["1500macs", "8kB", "3us", "0.5x"])
def test_the_compressed_model_keeps_to_the_budget_and_knows_its_table(trained, budget, tmp_path, capsys):
    model, data = trained
    out = tmp_path / "small.safetensors"
    argv = ["compress", str(model), str(data), "--budget", budget, "--test", "0.25", "--epochs", "3"]
    assert main([*argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("layer ")
    assert any(line.startswith("budget ") for line in printed)
    names = [line.split(",")[0] for line in printed[-4:-1]]
    assert names == ["before", "compressed", "tuned"]
    assert all("60 test rows: loss " in line and "accuracy " in line for line in printed[-4:-1])
    assert printed[-1] == f"wrote {out}"
    before, after = fo.nn.load(model), fo.nn.load(out)
    assert after.metadata == before.metadata
    assert multiply_adds(after.layers, after.input_shape) < multiply_adds(before.layers, before.input_shape)
    assert main(["predict", str(out), str(data)]) == 0
    assert set(capsys.readouterr().out.split()) <= {"red", "green", "blue"}
    assert main(["evaluate", str(out), str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 240


def test_json_says_what_was_printed(trained, tmp_path, capsys):
    model, data = trained
    argv = [
        "compress",
        str(model),
        str(data),
        "--budget",
        "1500macs",
        "--methods",
        "svd",
        "--json",
        "--validation",
        "0.1",
    ]
    assert main([*argv, "--out", str(tmp_path / "small.safetensors")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cost_after"] <= 1500 == said["budget"]
    assert {row["method"] for row in said["layers"]} == {"svd", None}
    assert said["measured_on"] == "train"
    assert said["rows"] == 216
    assert set(said["tuned"]) == {"loss", "accuracy"}


def test_the_rows_held_out_are_those_that_train_held_out(trained, tmp_path, capsys):
    _, data = trained
    model, shares = str(tmp_path / "held.safetensors"), ["--test", "0.25", "--validation", "0.1", "--seed", "3"]
    assert main(["train", str(data), "--hidden", "48", *shares, "--epochs", "2", "--json", "--out", model]) == 0
    trained_on = json.loads(capsys.readouterr().out)
    argv = ["compress", model, str(data), "--budget", "0.9x", *shares, "--json"]
    assert main([*argv, "--out", str(tmp_path / "small.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["before"] == pytest.approx(trained_on["test"], rel=1e-6)


def test_values_are_compressed_in_their_units(tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 8))
    data, model, out = tmp_path / "data.npz", tmp_path / "m.safetensors", tmp_path / "small.safetensors"
    np.savez(data, X=X, y=1000 + 50 * X @ rng.standard_normal(8))
    argv = ["--hidden", "40", "40", "--epochs", "20"]
    assert main(["train", str(data), "--task", "regress", *argv, "--out", str(model)]) == 0
    assert main(["compress", str(model), str(data), "--budget", "0.6x", "--epochs", "10", "--out", str(out)]) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("tuned, 200 rows it was trained on: r2 ")
    assert float(last.split("r2 ")[1].split(",")[0]) > 0.9


def test_a_network_that_meets_its_budget_is_written_as_it_is(trained, tmp_path, capsys):
    model, data = trained
    out = tmp_path / "same.safetensors"
    assert main(["compress", str(model), str(data), "--budget", "1000ms", "--out", str(out)]) == 0
    assert "met before" in capsys.readouterr().out
    assert out.read_bytes() == model.read_bytes()


def test_a_picture_is_drawn(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    model, data = trained
    argv = ["compress", str(model), str(data), "--budget", "8kB", "--plot", str(tmp_path / "drawn.png")]
    assert main([*argv, "--out", str(tmp_path / "small.safetensors")]) == 0
    assert (tmp_path / "drawn.png").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget", "1macs"], "expected at least"),
        (["--budget", "8kB", "--batch", "0"], "--batch: expected"),
        (["--budget", "8kB", "--methods", "svd", "qr"], "--methods: expected some of svd, two_factor, tucker2, cp"),
        (["--budget", "8kB", "--threads", "0"], "--threads: expected"),
        (["--budget", "8kB", "--threads", "99999"], "--threads: expected"),
        (["--budget", "0.3bytes"], "--budget in Bytes: expected"),
        (["--budget", "1e300macs"], "--budget in MultiplyAdds: expected"),
        (["--budget", "8kB", "--epochs", "-1"], "--epochs: expected"),
        (["--budget", "8kB", "--test", "1"], "--test: expected"),
        (["--budget", "8kB", "--test", "0.6", "--validation", "0.5"], "together: expected"),
        (["--budget", "8kB", "--test", "0.0001"], "--test: expected a share that holds a row out"),
        (["--budget", "8kB", "--target", "shade"], "--target: "),
        (["--budget", "8kB", "--out", "/nowhere/model"], "--out: expected an existing folder"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(trained, argv, message, tmp_path, capsys):
    model, data = trained
    out = [] if "--out" in argv else ["--out", str(tmp_path / "small.safetensors")]
    assert main(["compress", str(model), str(data), *argv, *out]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastopt compress: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "small.safetensors").exists()


def test_the_model_and_the_picture_are_two_files_however_they_are_named(trained, tmp_path, monkeypatch, capsys):
    model, data = trained
    monkeypatch.chdir(tmp_path)
    argv = [str(data), "--out", "both.png", "--plot", "./both.png"]
    for command in (["compress", str(model), *argv, "--budget", "8kB"], ["train", *argv]):
        assert main(command) == 2
        assert "--plot: expected another file than --out" in capsys.readouterr().err


def test_the_model_is_not_written_over_and_counts_are_refused(trained, tmp_path, capsys):
    model, data = trained
    assert main(["compress", str(model), str(data), "--budget", "8kB", "--out", str(model)]) == 2
    assert "--out: expected another file than" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "counts.npz", X=rng.standard_normal((50, 2)), y=rng.poisson(3, 50))
    counts, path = str(tmp_path / "counts.safetensors"), str(tmp_path / "counts.npz")
    assert main(["train", path, "--task", "count", "--out", counts]) == 0
    capsys.readouterr()
    argv = ["compress", counts, path, "--budget", "8kB", "--out", str(tmp_path / "small.safetensors")]
    assert main(argv) == 2
    assert "got one of counts" in capsys.readouterr().err
