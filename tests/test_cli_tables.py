"""The command line on real tables: one command trains, one predicts, others measure and show; text and JSON."""

import contextlib
import io
import json
from csv import reader as csv_reader
from csv import writer as csv_writer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets

import fastopt as fo
from fastopt.cli import main
from fastopt.optim.named import RULES


def run(*argv):
    """Status, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def ran(*argv):
    """What a command prints that succeeds."""
    status, out, err = run(*argv)
    assert status == 0, err
    return out


def refused(*argv):
    """The one line of a command that fails."""
    status, out, err = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1), (out, err)
    return err


def csv(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write(path, columns, order=None, rows=slice(None)):
    """A table of columns, a dict of lists, as a .csv file."""
    names = list(columns) if order is None else order
    fields = zip(*(columns[name][rows] for name in names), strict=True)
    return csv(path, ",".join(names), *(",".join(map(str, row)) for row in fields))


# ---------------------------------------------------------------- data sets


def table_of(name):
    """A data set of scikit-learn with a column of text, missing values and, for classes, labels of text."""
    data = getattr(datasets, f"load_{name}")()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.target))
    X, y = data.data[order], data.target[order]
    columns = {f"c{j}": X[:, j].tolist() for j in range(X.shape[1])}
    words = np.array(["low", "middle", "high"])
    columns["c0"] = words[np.searchsorted(np.quantile(X[:, 0], [0.3, 0.7]), X[:, 0])].tolist()
    columns["c1"] = [
        number if there else "" for number, there in zip(columns["c1"], rng.random(len(y)) > 0.03, strict=True)
    ]
    labels = {"wine": ["barolo", "grignolino", "barbera"], "breast_cancer": ["malignant", "benign"]}.get(name)
    columns["target"] = y.tolist() if labels is None else [labels[k] for k in y]
    return columns


LEAST = {"wine": 0.85, "breast_cancer": 0.94, "digits": 0.95, "diabetes": 0.3}  # accuracy, and R2 of diabetes


@pytest.mark.parametrize("name", LEAST)
def test_one_command_trains_and_one_predicts(name, tmp_path):
    columns = table_of(name)
    n = len(columns["target"]) * 4 // 5
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write(train, columns, rows=slice(n))
    write(test, columns, order=[c for c in reversed(columns) if c != "target"], rows=slice(n, None))
    model = tmp_path / "m.safetensors"
    ran("train", train, "--target", "target", "--impute", "median", "--out", model)
    status, out, err = run("predict", model, test)
    assert (status, err) == (0, "")
    found, want = out.split(), columns["target"][n:]
    if name == "diabetes":
        score = fo.metrics.r2_score(want, np.array(found, float))
    else:
        score = np.mean(np.array(found) == np.array(want).astype(str))
    assert score >= LEAST[name]
    whole = write(tmp_path / "whole.csv", columns, rows=slice(n, None))
    measured = json.loads(ran("evaluate", model, whole, "--json"))
    assert measured["r2" if name == "diabetes" else "accuracy"] == pytest.approx(score, abs=1e-6)


# ---------------------------------------------------------------- classes


@pytest.fixture
def shops(tmp_path):
    """Rows of shops whose label follows two columns, one of them of text."""
    rng = np.random.default_rng(0)
    size, town = rng.uniform(0, 10, 300).round(3), rng.choice(["Aix", "Bonn, West", "Cork"], 300)
    label = np.where(size + 3 * (town == "Cork") > 6, "big, busy", "small")
    lines = (f'{a},"{b}","{c}"' for a, b, c in zip(size, town, label, strict=True))
    return csv(tmp_path / "shops.csv", "size,town,kind", *lines)


@pytest.fixture
def model(shops, tmp_path):
    ran("train", shops, "--hidden", 16, "--lr", 0.01, "--out", tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_labels_of_text_are_printed_back_and_written(model, tmp_path):
    new = csv(tmp_path / "new.csv", "town,size", '"Bonn, West",0.5', "Cork,9.5")
    assert ran("predict", model, new) == 'small\n"big, busy"\n'
    lines = ran("predict", model, new, "--proba").splitlines()
    assert lines[0] == '"big, busy",small'
    np.testing.assert_allclose([sum(map(float, line.split(","))) for line in lines[1:]], [1, 1], atol=1e-6)
    ran("predict", model, new, "--out", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == ["small", "big, busy"]
    ran("predict", model, new, "--out", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == 'small\n"big, busy"\n'


def test_texts_that_training_did_not_know_are_mentioned(model, tmp_path):
    new = csv(tmp_path / "new.csv", "town,size", "Cork,0.5", "Dax,9.5", "Ely,9.5", "Dax,1")
    status, out, err = run("predict", model, new)
    assert (status, out.count("\n")) == (0, 4)
    assert err == (
        f"fastopt predict: column town of {new}: 'Dax', 'Ely' in 3 rows, which {model} has not learned, "
        "count as none of its categories\n"
    )


def test_whole_labels_need_no_numbering_from_zero(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.choice([-3, 10, 200], 300)
    data = csv(
        tmp_path / "t.csv",
        "a,y",
        *(f"{np.log(abs(k)) + e:.4f},{k}" for k, e in zip(y, rng.normal(0, 0.1, 300), strict=True)),
    )
    ran("train", data, "--task", "classify", "--out", tmp_path / "m.safetensors", "--hidden", 8, "--lr", 0.02)
    assert (np.array(ran("predict", tmp_path / "m.safetensors", data).split(), int) == y).mean() > 0.98
    assert ran("predict", tmp_path / "m.safetensors", data, "--proba").startswith("-3,10,200\n")


def test_labels_that_are_numbers_come_back_to_the_last_digit(tmp_path):
    labels = ["0.1", "0.30000000000000004", "12345678901.5"]
    data = csv(tmp_path / "t.csv", "a,y", *(f"{i % 3},{labels[i % 3]}" for i in range(60)))
    ran("train", data, "--task", "classify", "--lr", 0.01, "--out", tmp_path / "m.safetensors")
    assert set(ran("predict", tmp_path / "m.safetensors", data).split()) == set(labels)


def test_a_count_beyond_all_numbers_is_an_error_that_names_the_row(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(1, 1, bias=False)], rng=0)
    net.layers[0].weight[:] = 1
    table = {"task": "count", "columns": [{"name": "a"}], "target": {"name": "y", "link": "log"}}
    net.save(tmp_path / "m.safetensors", metadata={"table": table})
    data = csv(tmp_path / "t.csv", "a", "1", "1000")
    assert "row 2: expected finite outputs, got [inf]" in refused("predict", tmp_path / "m.safetensors", data)


def test_balanced_weights_count_every_class_alike(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(400) % 10 == 0
    data = csv(
        tmp_path / "t.csv", "a,y", *(f"{k + e:.4f},{int(k)}" for k, e in zip(y, rng.normal(0, 0.7, 400), strict=True))
    )
    counts = []
    for options in ([], ["--class-weight", "balanced"]):
        ran("train", data, "--hidden", "8", "--out", tmp_path / "m.safetensors", *options)
        counts.append(ran("predict", tmp_path / "m.safetensors", data).split().count("1"))
    assert counts[0] < 40 < counts[1]


# ---------------------------------------------------------------- values and counts


def test_values_come_back_in_their_units(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, 400)
    data = csv(tmp_path / "t.csv", "a,y", *(f"{x:.6f},{1e6 + 2e4 * x:.2f}" for x in a))
    model = tmp_path / "m.safetensors"
    out = ran("train", data, "--test", 0.2, "--validation", 0.1, "--lr", 0.01, "--out", model)
    assert "test: r2 1.0000" in out
    found = np.array(ran("predict", model, data).split(), float)
    np.testing.assert_allclose(found, 1e6 + 2e4 * a, atol=2e3)
    np.testing.assert_allclose(np.array(ran("predict", model, data, "--values").split(), float), found)
    assert ran("evaluate", model, data).startswith("400 rows: r2 1.0000")


def test_counts_are_those_of_a_poisson_model_of_standardized_columns(tmp_path):
    rng = np.random.default_rng(0)
    age, town = rng.uniform(20, 60, 500).round(2), rng.choice(["a", "b"], 500)
    y = rng.poisson(np.exp(-1 + 0.04 * age + 0.5 * (town == "b")))
    lines = (f"{a},{t},{k}" for a, t, k in zip(age, town, y, strict=True))
    data, model = csv(tmp_path / "t.csv", "age,town,visits", *lines), tmp_path / "m.safetensors"
    out = ran("train", data, "--task", "count", "--out", model)
    assert out.startswith(
        "task: count, counts\ntarget: visits; columns: age, town\n500 rows, 3 features, counts: deviance"
    )
    most = max("ab", key=town.tolist().count)
    X = np.column_stack([(age - age.mean()) / age.std(), town == most, town != most])
    fit = fo.newton.glm(X, y, family="poisson", l2=1.0)
    found = np.array(ran("predict", model, data).split(), float)
    np.testing.assert_allclose(found, fit.predict(X), rtol=1e-5)
    measured = json.loads(ran("evaluate", model, data, "--json"))
    mean = fit.predict(X)
    deviance = 2 * np.mean(np.where(y > 0, y * np.log(np.maximum(y, 1) / mean), 0) - (y - mean))
    assert measured["deviance"] == pytest.approx(deviance, rel=1e-5)
    assert 0 < measured["d2"] < 1
    assert "visits: counts, the exponential of the output" in ran("summary", model)


# ---------------------------------------------------------------- how a network is trained


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ([], ["Standardize", "Dense", "Dense", "Dense"]),
        (["--hidden"], ["Standardize", "Dense"]),
        (["--hidden", "4", "--dropout", "0.2"], ["Standardize", "Dense", "Dropout", "Dense"]),
        (["--hidden", "4", "--batch-norm"], ["Standardize", "Dense", "BatchNorm", "Dense"]),
        (["--schedule", "constant", "--weight-decay", "0"], ["Standardize", "Dense", "Dense", "Dense"]),
        (["--schedule", "one-cycle", "--lr", "0.01"], ["Standardize", "Dense", "Dense", "Dense"]),
        (["--schedule", "plateau", "--optimizer", "SGD", "--lr", "0.1"], ["Standardize", "Dense", "Dense", "Dense"]),
        (["--validation", "0.2", "--patience", "1"], ["Standardize", "Dense", "Dense", "Dense"]),
    ],
)
def test_networks_are_built_and_trained_as_told(options, layers, shops, tmp_path):
    ran("train", shops, "--epochs", 3, "--out", tmp_path / "m.safetensors", *options)
    net = fo.nn.load(tmp_path / "m.safetensors")
    assert [type(layer).__name__ for layer in net.layers] == layers


def test_options_change_what_is_learned(shops, tmp_path):
    printed = {
        ran("train", shops, "--epochs", 4, "--out", tmp_path / "m.safetensors", *options)
        for options in (
            [],
            ["--schedule", "constant"],
            ["--schedule", "one-cycle"],
            ["--weight-decay", "5"],
            ["--dropout", "0.5"],
            ["--batch-norm"],
            ["--seed", "1"],
            ["--batch-size", "8"],
        )
    }
    assert len(printed) == 8


@pytest.mark.parametrize(
    ("hidden", "steps", "epochs"), [([4, 4], 10**5, 50), ([4], 10**5, 200), ([], 10**5, 200), ([4], 70, 7), ([4], 5, 4)]
)
def test_epochs_are_many_where_layers_or_rows_are_few(hidden, steps, epochs, shops, tmp_path, monkeypatch):
    monkeypatch.setattr("fastopt.cli.train.STEPS", steps)  # 300 rows are 10 batches
    said = ran("train", shops, "--hidden", *hidden, "--out", tmp_path / "m.safetensors", "--json")
    assert len(json.loads(said)["history"]["loss"]) == epochs


def test_patience_ends_training(shops, tmp_path):
    options = ["--validation", 0.3, "--epochs", 60, "--schedule", "constant", "--lr", 0.1]
    whole = json.loads(ran("train", shops, *options, "--out", tmp_path / "m.safetensors", "--json"))
    short = json.loads(ran("train", shops, *options, "--patience", 3, "--out", tmp_path / "m.safetensors", "--json"))
    assert len(whole["history"]["loss"]) == 60
    assert len(short["history"]["loss"]) == short["best_epoch"] + 4


def test_a_model_takes_rows_of_the_file_from_python_too(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)) * [1, 1e3, 1] + [0, 1e9, 5]
    y = np.arange(200) % 2
    X[:, 1] += 4e3 * y
    np.savez(tmp_path / "t.npz", X=X, y=y)
    ran("train", tmp_path / "t.npz", "--out", tmp_path / "m.safetensors")
    net = fo.nn.load(tmp_path / "m.safetensors")
    assert fo.metrics.accuracy(y, net.predict(X)) > 0.95
    printed = np.array(ran("predict", tmp_path / "m.safetensors", tmp_path / "t.npz", "--values").split(), object)
    np.testing.assert_allclose([[float(v) for v in line.split(",")] for line in printed], net.predict(X), rtol=1e-5)


def test_losses_are_drawn(shops, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for options in ([], ["--validation", 0.2]):
        ran("train", shops, "--epochs", 2, "--plot", tmp_path / "p.png", "--out", tmp_path / "m.safetensors", *options)
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "p.png").unlink()


def test_a_column_that_numbers_the_rows_is_mentioned(tmp_path):
    data = csv(tmp_path / "t.csv", "id,a,y", *(f"{i},{i % 7},{i % 2}" for i in range(1, 60)))
    argv = ["train", data, "--epochs", 1, "--out", tmp_path / "m.safetensors"]
    status, _, err = run(*argv)
    assert (status, err) == (0, f"fastopt train: column id of {data} numbers the rows; --drop id leaves it out\n")
    assert run(*argv, "--drop", "id")[2] == ""


# ---------------------------------------------------------------- evaluate and summary


def test_evaluate_counts_rows_by_class(model, shops):
    measured = json.loads(ran("evaluate", model, shops, "--json"))
    assert set(measured) == {"task", "rows", "loss", "accuracy", "classes", "confusion"}
    confusion = np.array(measured["confusion"])
    assert (measured["task"], measured["rows"], measured["classes"]) == ("classify", 300, ["big, busy", "small"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(measured["accuracy"])
    assert (
        ran("evaluate", model, shops) == f"300 rows: loss {measured['loss']:.4f}, accuracy {measured['accuracy']:.4f}\n"
    )


def test_evaluate_takes_the_target_it_is_told_and_refuses_what_is_none(model, shops, tmp_path):
    lines = shops.read_text().splitlines()
    renamed = csv(tmp_path / "r.csv", "size,town,what", *lines[1:])
    assert "expected one of the columns size, town, what" in refused("evaluate", model, renamed)
    assert ran("evaluate", model, renamed, "--target", "what") == ran("evaluate", model, shops)
    other = csv(tmp_path / "o.csv", *lines[:3], "1,Aix,tiny")
    assert "line 4, column 3 (kind): expected a class of the model, such as big, busy, small, got tiny" in refused(
        "evaluate", model, other
    )
    missing = csv(tmp_path / "n.csv", *lines[:3], "1,Aix,")
    assert "line 4, column 3 (kind): expected a value, got a missing one" in refused("evaluate", model, missing)


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_evaluate_goes_by_place_where_there_are_no_names(task, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 2))
    y = (X.sum(axis=1) > 0).astype(float) if task == "classify" else X.sum(axis=1)
    np.savez(tmp_path / "t.npz", X=X, y=y)
    np.savetxt(tmp_path / "t.csv", np.column_stack([X, y]), delimiter=",")
    ran("train", tmp_path / "t.npz", "--task", task, "--out", tmp_path / "m.safetensors")
    printed = {ran("evaluate", tmp_path / "m.safetensors", tmp_path / name) for name in ("t.npz", "t.csv")}
    assert len(printed) == 1
    assert printed.pop().startswith("100 rows: loss" if task == "classify" else "100 rows: r2")


def test_a_network_of_ones_own_is_measured_by_its_outputs(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    net.layers[0].weight[:] = [[10, 1]]
    net.save(tmp_path / "m.safetensors")
    data = csv(tmp_path / "t.csv", "2,4,24", "1,1,11", "0,3,4")
    out = ran("evaluate", tmp_path / "m.safetensors", data)
    assert out.startswith("3 rows: r2 0.99")
    assert out.endswith(", rmse 0.5774, mae 0.3333\n")


@pytest.mark.parametrize(
    ("task", "outputs", "expected"), [("classify", 1, "an output for each class"), ("regress", 2, "one output")]
)
def test_evaluate_refuses_a_network_whose_outputs_do_not_fit_the_task(task, outputs, expected, tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(2, outputs)], rng=0)
    table = {"task": task, "columns": [{"name": "a"}, {"name": "b"}], "target": {"name": "y"}}
    net.save(tmp_path / "m.safetensors", metadata={"table": table})
    data = csv(tmp_path / "t.csv", "a,b,y", "1,2,0")
    assert f"expected {expected} of task {task}, got {outputs}" in refused("evaluate", tmp_path / "m.safetensors", data)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_with_every_schedule(rule, shops, tmp_path):
    argv = ["train", shops, "--epochs", 1, "--hidden", 4, "--optimizer", rule, "--out", tmp_path / "m.safetensors"]
    for schedule in ("constant", "cosine", "one-cycle", "plateau"):
        ran(*argv, "--schedule", schedule)


def test_summary_shows_layers_columns_and_target(shops, tmp_path):
    lines = shops.read_text().splitlines()
    data = csv(tmp_path / "t.csv", *lines, ",Aix,small", "2,?,small", '"-",Aix,small')
    model = tmp_path / "m.safetensors"
    ran("train", data, "--impute", "median", "--missing", "-", "--hidden", 4, "--max-categories", 2, "--out", model)
    out = ran("summary", model)
    assert out.startswith(fo.nn.summary(fo.nn.load(model)))
    for part in (
        f"task: classify; written by fastopt {fo.__version__}\n",
        "target: kind: classes big, busy, small\n",
        "  size  number, ",
        " where it is missing\n",
        "  town  2 categories: ",
        ", all others, missing\n",
        "missing values: also -\n",
    ):
        assert part in out
    said = json.loads(ran("summary", model, "--json"))
    assert said["table"] == fo.nn.load(model).metadata["table"]
    assert (said["inputs"], said["outputs"], said["parameters"]) == (5, 2, 5 * 4 + 4 + 4 * 2 + 2)
    assert [layer["type"] for layer in said["layers"]] == ["Standardize", "Dense", "Dense"]


def test_summary_of_a_network_without_a_table(tmp_path):
    fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0).save(tmp_path / "m.safetensors")
    assert "task: not said" in ran("summary", tmp_path / "m.safetensors")
    assert "columns: 3 without names" in ran("summary", tmp_path / "m.safetensors")


def test_columns_of_text_go_by_place_where_there_are_no_names(tmp_path):
    data = csv(tmp_path / "t.csv", *(f"{('red', 'blue')[i % 2]},{i},{('yes', 'no')[i % 2]}" for i in range(40)))
    model = tmp_path / "m.safetensors"
    assert "got both: 'red' and '0'; say --header or --no-header" in refused("train", data)
    ran("train", data, "--no-header", "--out", model)
    new = csv(tmp_path / "new.csv", "blue,4", "red,5")
    assert ran("predict", model, new, "--no-header") == "no\nyes\n"
    assert "40 rows: loss" in ran("evaluate", model, data, "--no-header")
    assert "columns: 2 without names\n  1  2 categories: red, blue\n" in ran("summary", model)


def test_models_of_earlier_versions_are_asked_like_others(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(2, 2, bias=False)], rng=0)
    net.layers[0].weight[:] = [[1, 0], [0, 1]]
    table = {"version": "0", "task": "classify", "columns": [{"name": "a"}, {"name": "b"}], "target": {"name": "y"}}
    net.save(tmp_path / "m.safetensors", metadata={"table": table})
    data = csv(tmp_path / "t.csv", "b,a,y", "9,1,1", "1,9,0", "9,1,0", "1,9,0")
    model = tmp_path / "m.safetensors"
    assert ran("predict", model, data) == "1\n0\n1\n0\n"
    assert ran("predict", model, data, "--proba").count("\n") == 4  # classes 0, 1, ... need no line of labels
    assert json.loads(ran("evaluate", model, data, "--json"))["confusion"] == [[2, 1], [0, 1]]
    assert "target: y: classes 0, 1\n  a  number\n  b  number\n" in ran("summary", model)


# ---------------------------------------------------------------- JSON


def test_train_prints_one_object_for_programs(shops, tmp_path):
    model = tmp_path / "m.safetensors"
    argv = ["train", shops, "--epochs", 3, "--validation", 0.1, "--test", 0.2, "--out", model, "--json"]
    out = ran(*argv)
    assert out.count("\n") == 1
    said = json.loads(out)
    assert set(said) == {
        "model", "task", "target", "classes", "columns", "features", "rows", "losses", "best_epoch", "history",
        "validation", "test",
    }  # fmt: skip
    assert said["rows"] == {"train": 210, "validation": 30, "test": 60}
    assert (said["model"], said["task"], said["target"]) == (str(model), "classify", "kind")
    assert (said["classes"], said["columns"], said["features"]) == (["big, busy", "small"], ["size", "town"], 4)
    assert {name: len(values) for name, values in said["history"].items()} == dict.fromkeys(
        ("loss", "val_loss", "val_accuracy"), 3
    )
    assert said["validation"]["loss"] == pytest.approx(said["losses"]["val_loss"], rel=1e-5)
    assert set(said["test"]) == {"loss", "accuracy"}


def test_predict_prints_one_object_for_programs(model, tmp_path):
    new = csv(tmp_path / "new.csv", "town,size", "Aix,0.5", "Cork,9.5")
    assert json.loads(ran("predict", model, new, "--json")) == {
        "task": "classify",
        "classes": ["big, busy", "small"],
        "predictions": ["small", "big, busy"],
    }
    said = json.loads(ran("predict", model, new, "--json", "--proba"))
    np.testing.assert_allclose(np.sum(said["probabilities"], axis=1), [1, 1], atol=1e-6)
    net = fo.nn.Sequential([fo.nn.Dense(2, 1, init="zeros")], rng=0)
    net.save(tmp_path / "n.safetensors")
    data = csv(tmp_path / "t.csv", "1,2", "3,4")
    said = json.loads(ran("predict", tmp_path / "n.safetensors", data, "--json"))
    assert said == {"task": None, "classes": None, "predictions": [0.0, 0.0]}


def test_info_prints_one_object_for_programs():
    assert json.loads(ran("info", "--json")) == json.loads(json.dumps(fo.config()))


# ---------------------------------------------------------------- whatever a file holds

fields = st.sampled_from(
    ["0", "1", "2", "-3.5", "1e300", "inf", "", "NA", "a", "b, c", "a\nb", "2024-01-01", "1,5", "é"]
)
any_tables = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(fields, min_size=width, max_size=width), min_size=1, max_size=12)
)
some_options = st.lists(
    st.sampled_from(
        [
            ["--impute", "median"],
            ["--categories", "c0"],
            ["--task", "classify"],
            ["--task", "regress"],
            ["--task", "count"],
            ["--validation", "0.3"],
            ["--test", "0.3"],
            ["--max-categories", "1"],
            ["--missing", "a"],
            ["--drop", "c0"],
        ]
    ),
    max_size=3,
    unique_by=tuple,
)


@settings(max_examples=150)
@given(any_tables, some_options)
def test_a_table_is_trained_on_and_predicted_or_refused_in_one_line(tmp_path_factory, rows, options):
    data, model = (tmp_path_factory.getbasetemp() / name for name in ("any.csv", "any.safetensors"))
    with open(data, "w", newline="", encoding="utf-8") as stream:
        writer = csv_writer(stream)
        writer.writerow([f"c{j}" for j in range(len(rows[0]))])
        writer.writerows(rows)
    argv = ["train", data, "--epochs", 1, "--hidden", "--out", model, *(word for pair in options for word in pair)]
    status, out, err = run(*argv)
    if status:
        assert (status, err.count("\n")) == (2, 1), err
        return
    assert out.endswith(f"wrote {model}\n")
    net = fo.nn.load(model)
    printed = json.loads(ran("predict", model, data, "--json"))
    assert len(printed["predictions"]) == len(rows)
    labels = net.metadata["table"]["target"].get("classes")
    assert labels is None or set(printed["predictions"]) <= set(labels)
    assert json.loads(ran("evaluate", model, data, "--json"))["rows"] == len(rows)
    assert ran("summary", model)


# ---------------------------------------------------------------- mistakes

OPTIONS = [
    (["--test", "1"], "--test: expected a finite number of at least 0 and below 1, got 1.0"),
    (
        ["--test", "0.6", "--validation", "0.5"],
        "--validation and --test together: expected a finite number of at least",
    ),
    (["--patience", "3"], "--patience: expected --validation above 0, for it goes by the loss of rows held out"),
    (["--patience", "0", "--validation", "0.1"], "--patience: expected a whole number of at least 1, got 0"),
    (["--weight-decay", "-1"], "--weight-decay: expected a finite number of at least 0, got -1.0"),
    (["--dropout", "1"], "--dropout: expected a finite number of at least 0 and below 1, got 1.0"),
    (["--max-categories", "0"], "--max-categories: expected a whole number of at least 1, got 0"),
    (["--delimiter", "ab"], "--delimiter: expected one character, such as ; or tab, got 'ab'"),
    (["--delimiter", "a"], "--delimiter: expected one character, such as ; or tab, got 'a'"),
    (
        ["--delimiter", ",", "--decimal", ","],
        "--delimiter: expected another character than --decimal, got ',' for both",
    ),
    (["--task", "count", "--hidden", "8"], "--hidden: expected none with --task count, which fits no network, got [8]"),
    (["--task", "count", "--batch-norm"], "--batch-norm: expected none with --task count, which fits no network"),
    (["--task", "regress", "--class-weight", "balanced"], "--class-weight: expected none with --task regress"),
    (["--task", "classify", "--loss", "mse"], "--loss: expected cross_entropy for --task classify, got mse"),
    (["--plot", "no/such/folder/p.png"], "--plot: expected an existing folder"),
    (["--plot", "m.st", "--out", "m.st"], "--plot: expected another file than --out, got m.st for both"),
]


@pytest.mark.parametrize(("option", "message"), OPTIONS, ids=repr)
def test_options_out_of_range_get_one_line_before_the_data_are_read(option, message):
    err = refused("train", "missing.csv", *option)
    assert err.startswith(f"fastopt train: {message}")


def test_options_that_exclude_each_other_get_one_line(shops, model):
    assert "not allowed with" in refused("train", shops, "--drop", "size", "--columns", "size")
    assert "not allowed with" in refused("train", shops, "--header", "--no-header")
    assert "--json: expected to be printed, without --out" in refused("predict", model, shops, "--json", "--out", "x")


def test_options_of_text_files_are_heeded_by_every_command(tmp_path):
    lines = [f"{i % 5},5;{'n/k' if i % 7 == 0 else i};{i % 2}" for i in range(1, 60)]
    data, model = csv(tmp_path / "t.csv", "1;2;3", *lines), tmp_path / "m.safetensors"
    told = ["--header", "--decimal", ",", "--delimiter", ";"]
    ran("train", data, *told, "--missing", "n/k", "--impute", "median", "--out", model)
    assert [column["name"] for column in fo.nn.load(model).metadata["table"]["columns"]] == ["1", "2"]
    assert ran("predict", model, data, *told).count("\n") == 59
    assert "59 rows: loss" in ran("evaluate", model, data, *told)
    assert "expected columns named 1, 2, got some without names" in refused("predict", model, data, "--decimal", ",")
    tabs = csv(tmp_path / "t.tsv", "2\t1", "n/k\t1.5")
    assert ran("predict", model, tabs, "--header", "--delimiter", "tab").strip() in ("0", "1")


def test_plot_without_matplotlib_says_what_to_install(shops, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "--plot needs matplotlib; pip install matplotlib" in refused("train", shops, "--plot", "p.png")


def test_a_picture_of_a_kind_that_matplotlib_does_not_write_is_refused_before_the_work(shops, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    model = tmp_path / "m.safetensors"
    assert "--plot: expected a name that ends in one of" in refused("train", shops, "--plot", "p.xyz", "--out", model)
    assert not model.exists()
    fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0).save(model)
    assert "--out: expected a name that ends in one of" in refused("tune", model, "--out", tmp_path / "p.xyz")


# ---------------------------------------------------------------- digits, labels and ends of numbers


def test_predictions_have_the_digits_that_tell_them_apart(tmp_path):
    data = csv(tmp_path / "t.csv", "a,t", *(f"{i % 7},{1_700_000_000 + i % 7}.5" for i in range(60)))
    model = tmp_path / "m.safetensors"
    ran("train", data, "--epochs", 100, "--hidden", "--lr", 0.05, "--out", model)
    assert len(set(ran("predict", model, data).split())) == 7
    measured = json.loads(ran("evaluate", model, data, "--json"))
    found = np.array(ran("predict", model, data).split(), float)
    target = np.loadtxt(data, delimiter=",", skiprows=1)[:, 1]
    assert np.abs(found - target).mean() == pytest.approx(measured["mae"], rel=1e-4)


@pytest.mark.parametrize("labels", [["x", "x\0"], ["x\ry", "x"], [12345678901.25, 12345678901.5], [3, 4.5]], ids=repr)
def test_labels_are_printed_as_they_are(labels, tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(1, 2)], rng=0)
    net.layers[0].weight[:] = [[-1], [1]]
    table = {"task": "classify", "columns": [{"name": "a"}], "target": {"name": "t", "classes": labels}}
    model, out = tmp_path / "m.safetensors", tmp_path / "p.csv"
    net.save(model, metadata={"table": table})
    data = csv(tmp_path / "t.csv", "a", "-1", "1")
    ran("predict", model, data, "--out", out)
    with out.open(newline="", encoding="utf-8") as stream:
        assert [row[0] for row in csv_reader(stream)] == [str(label) for label in labels]
    assert json.loads(ran("predict", model, data, "--json"))["predictions"] == labels


def test_a_count_too_large_for_a_number_is_refused(tmp_path):
    data = csv(tmp_path / "t.csv", "a,t", *(f"{i / 10},{i}" for i in range(30)))
    model = tmp_path / "m.safetensors"
    ran("train", data, "--task", "count", "--out", model)
    large = csv(tmp_path / "large.csv", "a,t", "1,2", "1e6,3")
    for command in ("predict", "evaluate"):
        assert "row 2: expected finite outputs, got [inf]" in refused(command, model, large)


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("count", "-3", "expected a count, a whole number of at least 0, got -3"),
        ("count", "2.5", "expected a count, a whole number of at least 0, got 2.5"),
        ("regress", "1e400", "expected a finite number within"),
        ("regress", "-9", "expected a value, got a missing one"),
    ],
)
def test_evaluate_refuses_targets_that_train_refuses(task, target, message, tmp_path):
    data = csv(tmp_path / "t.csv", "a,t", *(f"{i / 10},{i}" for i in range(30)))
    model = tmp_path / "m.safetensors"
    options = [] if task == "count" else ["--epochs", 1, "--missing=-9"]
    ran("train", data, "--task", task, *options, "--out", model)
    other = csv(tmp_path / "other.csv", "a,t", "1,2", f"2,{target}")
    assert f"line 3, column 2 (t): {message}" in refused("evaluate", model, other)


def test_several_values_are_predicted_as_values(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(1, 2)], rng=0)
    net.layers[0].weight[:] = [[10], [100]]
    model = tmp_path / "m.safetensors"
    table = {"task": "regress", "columns": [{"name": "a"}], "target": {"name": None}}
    net.save(model, metadata={"table": table})
    data = csv(tmp_path / "t.csv", "a", "1", "2")
    assert ran("predict", model, data) == "10,100\n20,200\n"
    assert json.loads(ran("predict", model, data, "--json"))["predictions"] == [[10, 100], [20, 200]]
    assert "an output for each class, got one of task regress" in refused("predict", model, data, "--proba")


def test_predict_prints_nothing_where_stdout_is_closed(model, shops, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["predict", str(model), str(shops)]) == 0
