"""The command line: what each command prints and writes, and that mistakes end in one line and status 2."""

import contextlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt as fo
from fastopt.cli import main


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
    assert main([*argv, "--validation", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "task: classify, 2 classes (--task regress predicts values)\n180 rows, 4 features, 2 classes: loss "
    )
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


def test_training_that_diverges_ends_in_one_line(classes, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    assert main(["train", str(classes), "--optimizer", "SGD", "--lr", "1e30", "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("fastopt train: loss: expected one that is defined, got nan")
    assert not out.exists()


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
        losses, task = ("mse or mae or huber", "regress") if data == values else ("cross_entropy", "classify")
        other = "classify predicts classes" if data == values else "regress predicts values"
        message = f"--loss: expected {losses} for --task {task}, got {loss} (--task {other})"
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("header", ["", "a,b,target\n"])
def test_train_and_predict_values_from_csv(header, tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 2))
    rows = "".join(f"{a},{b},{a - 2 * b:.6f}\n" for a, b in X)
    (tmp_path / "data.csv").write_text(header + rows)
    model = str(tmp_path / "m.safetensors")
    argv = ["train", str(tmp_path / "data.csv"), "--hidden", "16", "--epochs", "40", "--lr", "0.01", "--progress"]
    assert main([*argv, "--validation", "0", "--batch-size", "16", "--out", model]) == 0
    out = capsys.readouterr().out
    assert out.startswith("task: regress, values (--task classify predicts classes)\n")
    assert ("target: target; columns: a, b\n" in out) is bool(header)
    assert "300 rows, 2 features, values: loss" in out
    (tmp_path / "new.csv").write_text(("b,a\n0.5,1.0\n" if header else "1.0,0.5\n") + "0,0\n")
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


def test_predict_leaves_out_the_target_column_it_is_told(model, classes, tmp_path, capsys):
    X, y = (np.load(classes)[name] for name in "Xy")
    outputs = []
    for table, options in (
        (X, []),
        (np.column_stack([X, y]), ["--target", "5"]),
        (np.column_stack([y, X]), ["--target", "1"]),
    ):
        np.savetxt(tmp_path / "t.csv", table, delimiter=",")
        assert main(["predict", str(model), str(tmp_path / "t.csv"), *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    argv = ["predict", str(model), str(tmp_path / "t.csv")]
    assert_one_line_and_status_2(argv, "expected 4 columns, as in training, got 5; leave the target out", capsys)


# ---------------------------------------------------------------- the task


@pytest.mark.parametrize(
    ("targets", "task", "outputs"),
    [
        (np.arange(70) % 7, None, 7),
        (np.arange(70) % 7, "regress", 1),
        (np.arange(70) % 7 * 1.0, None, 1),
        (np.arange(70) % 7 * 1.0, "classify", 7),
        (np.arange(70) % 2 == 0, None, 2),
        (np.arange(70) % 2 == 0, "regress", 1),
    ],
    ids=repr,
)
def test_the_task_is_printed_and_can_be_changed(targets, task, outputs, tmp_path, capsys):
    np.savez(tmp_path / "t.npz", X=np.random.default_rng(0).standard_normal((70, 2)), y=targets)
    out, option = tmp_path / "m.safetensors", [] if task is None else ["--task", task]
    assert main(["train", str(tmp_path / "t.npz"), "--epochs", "1", "--hidden", "--out", str(out), *option]) == 0
    what = f"classify, {outputs} classes" if outputs > 1 else "regress, values"
    other = "--task regress predicts values" if outputs > 1 else "--task classify predicts classes"
    assert capsys.readouterr().out.startswith(f"task: {what}\n" if task else f"task: {what} ({other})\n")
    net = fo.nn.load(out)
    assert net.out_features == outputs
    assert net.metadata["table"]["task"] == what.split(",")[0]


@pytest.mark.parametrize("values", [[1.0, 1.0], [True, True]])
def test_one_class_is_none(values, tmp_path, capsys):
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)), y=values)
    argv = ["train", str(tmp_path / "t.npz"), "--task", "classify", "--out", str(tmp_path / "m.safetensors")]
    remedy = "expected two classes or more, got 1 only; predict values with --task regress"
    assert_one_line_and_status_2(argv, remedy, capsys)


# ---------------------------------------------------------------- names of columns


def save_named(path):
    """A network that gives 100 a + 10 b + c for columns that it knows as a, b, c."""
    net = fo.nn.Sequential([fo.nn.Dense(3, 1)], rng=0)
    net.layers[0].weight[:] = [[100, 10, 1]]
    net.save(path, metadata={"table": {"columns": [{"name": name} for name in "abc"], "target": {"name": "y"}}})
    return path


@pytest.fixture
def named(tmp_path):
    return save_named(tmp_path / "named.safetensors")


@pytest.fixture(scope="module")
def named_once(tmp_path_factory):
    """For a search over many files: the network, and a path for each of them in turn."""
    folder = tmp_path_factory.mktemp("named")
    return save_named(folder / "m.safetensors"), folder / "t.csv"


def run(*argv):
    """Status, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("a,b,c\n1,2,3\n4,5,6\n", None),
        ("c,a,b\n3,1,2\n6,4,5\n", None),
        ("a,y,b,c\n1,9,2,3\n4,9,5,6\n", None),
        ("id,c,b,a,note\nA1,3,2,1,x\nA2,6,5,4,\n", "id, note"),
    ],
)
def test_predict_goes_by_name_and_mentions_what_it_ignores(text, ignored, named, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    status, out, err = run("predict", named, tmp_path / "t.csv")
    assert (status, out) == (0, "123\n456\n")
    assert err == (f"fastopt predict: ignored what {named} does not know: {ignored}\n" if ignored else "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,d\n1,2,3\n", "expected columns named c, got a, b, d"),
        ("A,B,C\n1,2,3\n", "expected columns named a, b, c, got A, B, C"),
        ("a,b\n1,2\n", "expected columns named c, got a, b"),
        ("a,b,c,a\n1,2,3,4\n", "expected names that differ, got 'a' twice"),
        ("1,2,3\n", "expected columns named a, b, c, got some without names; add a first line with the names"),
        ("\ufeff1,2,3\n", "expected columns named a, b, c, got some without names"),
        (",2,3\n4,5,6\n", "expected columns named a, b, c, got some without names"),
    ],
)
def test_predict_refuses_columns_it_cannot_know(text, message, named, tmp_path, capsys):
    (tmp_path / "t.csv").write_text(text)
    assert_one_line_and_status_2(["predict", str(named), str(tmp_path / "t.csv")], message, capsys)


def test_train_stores_what_predict_needs(tmp_path):
    rows = "".join(f"{i % 2},{i},{-i}\n" for i in range(20))
    (tmp_path / "t.csv").write_text("kind,a,b\n" + rows)
    status, out, _ = run(
        "train", tmp_path / "t.csv", "--target", "kind", "--epochs", 1, "--out", tmp_path / "m.safetensors"
    )
    assert status == 0
    assert "target: kind; columns: a, b\n" in out
    assert fo.nn.load(tmp_path / "m.safetensors").metadata == {
        "table": {
            "version": fo.__version__,
            "task": "classify",
            "columns": [{"name": "a"}, {"name": "b"}],
            "target": {"name": "kind", "classes": [0, 1]},
        }
    }
    assert run("predict", tmp_path / "m.safetensors", tmp_path / "t.csv")[::2] == (0, "")


def test_a_model_without_names_takes_columns_in_their_order_and_says_so(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    net.save(tmp_path / "m.safetensors")
    for header, said in (("", False), ("a,b\n", True)):
        (tmp_path / "t.csv").write_text(header + "1,2\n3,4\n")
        status, out, err = run("predict", tmp_path / "m.safetensors", tmp_path / "t.csv")
        np.testing.assert_allclose(np.array(out.split(), float), net.predict([[1, 2], [3, 4]])[:, 0], rtol=1e-6)
        assert status == 0
        assert ("is taken for names, a, b; " in err) is said


TABLES = [
    [],
    "abc",
    {},
    {"columns": None, "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}], "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}, {"name": "a"}], "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}, {"name": None}], "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}, {"name": 3}], "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}, {"name": ["c"]}], "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}, "c"], "target": {"name": "y"}},
    {"columns": [{"name": "a"}, {"name": "b"}, {"name": "c"}]},
]


@pytest.mark.parametrize("table", TABLES, ids=repr)
def test_a_model_whose_description_of_columns_is_damaged_is_refused(table, named, tmp_path, capsys):
    fo.nn.load(named).save(named, metadata={"table": table})
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n")
    message = "expected a description of its 3 columns, got one that does not fit ("
    assert_one_line_and_status_2(["predict", str(named), str(tmp_path / "t.csv")], message, capsys)


names = st.lists(st.sampled_from(["a", "b", "c", "d", "y"]), max_size=6)


@given(names, st.lists(st.lists(st.integers(-9, 9), min_size=6, max_size=6), max_size=3))
def test_a_table_is_predicted_right_or_refused_whatever_its_columns(named_once, header, rows):
    model, path = named_once
    path.write_text("".join(",".join(map(str, cells[: len(header)])) + "\n" for cells in [header, *rows]))
    status, out, err = run("predict", model, path)
    if rows and {"a", "b", "c"} <= set(header) and len(set(header)) == len(header):
        places = [header.index(name) for name in "abc"]
        assert status == 0
        assert out.split() == [f"{100 * row[places[0]] + 10 * row[places[1]] + row[places[2]]:d}" for row in rows]
        assert ("ignored" in err) is ("d" in header)
    else:
        assert (status, out, err.count("\n")) == (2, "", 1)


# ---------------------------------------------------------------- mistakes


def write_npz(path, **arrays):
    np.savez(path, **arrays)


MISTAKES = {
    "data.txt": (lambda p: p.write_text("1,2\n"), "expected a .csv, .tsv, .parquet, .feather or .npz file, got .txt"),
    "missing.csv": (lambda p: None, "No such file"),
    "empty.csv": (lambda p: p.write_text(""), "expected rows of numbers or text, got none"),
    "header.csv": (lambda p: p.write_text("a,b\n"), "got nothing below the first line"),
    "words.csv": (lambda p: p.write_text("1,2\n3,four\n"), "line 2, column 2: expected a number, got 'four'"),
    "ragged.csv": (lambda p: p.write_text("1,2\n3\n"), "line 2: expected 2 fields, as in line 1, got 1"),
    "gaps.csv": (
        lambda p: p.write_text("1,2000\n2,2020\n3,2021\n"),
        "column 2: expected --task classify, regress or count",
    ),
    "nan.csv": (
        lambda p: p.write_text("1,0\nnan,1\n"),
        "line 2, column 1: expected a value, got a missing one; --impute median fills",
    ),
    "text.npz": (lambda p: p.write_text("1,2\n"), "damaged or of another kind"),
    "noy.npz": (lambda p: write_npz(p, X=np.ones((2, 2))), "expected arrays X and, for training, y"),
    "flat.npz": (lambda p: write_npz(p, X=np.ones(2), y=np.ones(2)), "expected rows of features"),
    "short.npz": (lambda p: write_npz(p, X=np.ones((3, 2)), y=np.ones(2)), "expected y of shape (3,)"),
    "object.npz": (lambda p: write_npz(p, X=np.array([[None]]), y=np.ones(1)), "expected X of real numbers"),
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


OPTIONS = [
    (["--validation", "1"], "--validation: expected a finite number of at least 0 and below 1, got 1.0"),
    (["--validation", "nan"], "--validation: expected a finite number of at least 0 and below 1, got nan"),
    (["--epochs", "0"], "--epochs: expected a whole number of at least 1, got 0"),
    (["--batch-size", "0"], "--batch-size: expected a whole number of at least 1, got 0"),
    (["--batch-size", str(10**30)], "--batch-size: expected a whole number from 1 to 9007199254740992, got 1000"),
    (["--seed", "-1"], "--seed: expected a whole number of at least 0, got -1"),
    (["--lr", "-1"], "--lr: expected a finite number of at least 0, got -1.0"),
    (["--lr", "nan"], "--lr: expected a finite number of at least 0, got nan"),
    (["--hidden", "8", "0"], "--hidden: expected a whole number of at least 1, got 0"),
    (["--out", "no/such/folder/m.safetensors"], "--out: expected an existing folder"),
    (["--out", "."], "--out: expected a file, got the folder ."),
]


@pytest.mark.parametrize(("option", "message"), OPTIONS)
def test_options_out_of_range_get_one_line_and_status_2_before_the_data_are_read(option, message, capsys):
    assert_one_line_and_status_2(["train", "missing.csv", *option], message, capsys)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["brew"],
        ["train"],
        ["train", "t.csv", "--epochs", "many"],
        ["train", "t.csv", "--task", "guess"],
        ["train", "t.csv", "--loss", "cross\nentropy"],
        ["train", "t.csv", "a\nb"],
        ["train", "t.csv", "--epochs", "9" * 5000],
        ["predict", "m.safetensors"],
        ["predict", "m.safetensors", "t.csv", "--proba", "--values"],
    ],
    ids=lambda argv: " ".join(argv)[:30],
)
def test_arguments_that_cannot_be_parsed_get_one_line_and_status_2(argv):
    status, out, err = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("fastopt")


def test_layers_beyond_memory_get_one_line_and_status_2(classes, capsys):
    argv = ["train", str(classes), "--hidden", "10000000000", "10000000000"]
    assert_one_line_and_status_2(argv, "--hidden: expected layers that fit into memory, got some of", capsys)


def test_no_row_left_to_train_on_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)), y=[0.5, 1.5])
    argv = ["train", str(tmp_path / "t.npz"), "--validation", "0.9"]
    assert_one_line_and_status_2(argv, "--validation: expected a share that leaves a row to train on, got 0.9", capsys)


def test_outputs_that_are_not_finite_become_no_class(tmp_path, capsys):
    net = fo.nn.Sequential([fo.nn.Dense(2, 3)], rng=0)
    net.layers[0].weight[:] = 1e38
    net.save(tmp_path / "m.safetensors")
    (tmp_path / "t.csv").write_text("1,1\n2,1\n9,-9e9\n")
    for option in ([], ["--proba"], ["--values"]):
        argv = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv"), *option]
        assert_one_line_and_status_2(argv, "row 3: expected finite outputs, got [", capsys)


def test_a_file_that_is_read_is_not_written_over(model, classes, tmp_path, capsys):
    content = classes.read_bytes(), model.read_bytes()
    (tmp_path / "link.npz").symlink_to(classes)
    for argv in (
        ["train", str(classes), "--out", str(classes)],
        ["train", str(tmp_path / "link.npz"), "--out", str(classes)],
        ["predict", str(model), str(classes), "--out", str(classes)],
        ["predict", str(model), str(classes), "--out", str(model)],
        ["tune", str(model), "--out", str(model)],
    ):
        assert_one_line_and_status_2(argv, "--out: expected another file than", capsys)
    assert (classes.read_bytes(), model.read_bytes()) == content


words = st.sampled_from(["0", "-1", "1", "2", "nan", "inf", "1e-3", "0.5", "x", "", "t.csv", str(10**12), "4 4"])
some_options = st.lists(
    st.tuples(
        st.sampled_from(["--hidden", "--batch-size", "--seed", "--lr", "--validation", "--target", "--task"]), words
    ),
    max_size=3,
)


@settings(max_examples=100)
@given(some_options)
def test_train_ends_with_status_0_or_one_line_and_2_whatever_its_options(tmp_path_factory, options):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.csv").write_text("a,b,y\n" + "".join(f"{i},{-i},{i % 2}\n" for i in range(8)))
    argv = [word for option, value in options for word in (option, *value.split(" "))]
    status, _, err = run("train", folder / "any.csv", "--epochs", 1, "--out", folder / "any.safetensors", *argv)
    assert (status, err.count("\n")) in [(0, 0), (2, 1)], err


# ---------------------------------------------------------------- pipes


def start(*argv, **options):
    command = [sys.executable, "-m", "fastopt", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_closed_pipe_is_quiet(named, tmp_path):
    (tmp_path / "long.csv").write_text("a,b,c\n" + "1,2,3\n" * 50_000)
    with start("predict", named, tmp_path / "long.csv") as process:
        assert process.stdout.readline() == "123\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + 13  # as if SIGPIPE had ended it


def test_a_full_disk_under_stdout_gets_one_line_and_status_2(named, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n")
    command = [sys.executable, "-m", "fastopt", "predict", named, tmp_path / "t.csv"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "fastopt predict: [Errno 28] No space left on device\n"


def test_unusable_models_get_one_line_and_status_2(model, classes, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:-8])
    assert_one_line_and_status_2(["predict", str(tmp_path / "cut.safetensors"), str(classes)], "damaged", capsys)
    np.savetxt(tmp_path / "wide.csv", np.ones((2, 9)), delimiter=",")
    assert_one_line_and_status_2(
        ["predict", str(model), str(tmp_path / "wide.csv")], "expected 4 columns, as in", capsys
    )
    fo.nn.Sequential([fo.nn.Dense(4, 1)]).save(tmp_path / "one.safetensors")
    argv = ["predict", str(tmp_path / "one.safetensors"), str(classes), "--proba"]
    assert_one_line_and_status_2(argv, "--proba: expected a network with an output for each class", capsys)


# ---------------------------------------------------------------- bench (what it prints: test_bench.py)


def test_bench_refuses_an_unknown_topic(capsys):
    assert_one_line_and_status_2(["bench", "tea"], "topic: expected some of activations, batch_norm", capsys)
    assert_one_line_and_status_2(["bench", "limits", "--threads", "0"], "--threads: expected a whole number", capsys)
    assert_one_line_and_status_2(
        ["bench", "limits", "--json", "no/such/x.json"], "--json: expected an existing", capsys
    )
