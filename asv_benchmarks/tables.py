"""What docs/cli.md says of the command line on tables: accuracy beside scikit-learn's MLP, and peak memory.

    python asv_benchmarks/tables.py accuracy --seeds 10 --hidden 128 64
    python asv_benchmarks/tables.py memory --megabytes 1000

Accuracy needs scikit-learn, pandas and mlxtend. Each data set gets labels of text, a column of text and missing
values; each of five folds is trained by one command and predicted by another, from columns in the reverse order.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

# ---------------------------------------------------------------- accuracy


def data_sets():
    """Name, task, frame and name of the target of each data set."""
    import pandas as pd
    from mlxtend.data import autompg_data, boston_housing_data
    from sklearn import datasets

    def binned(column, words):
        return pd.qcut(column.rank(method="first"), len(words), labels=words).astype(str)

    wine = datasets.load_wine(as_frame=True)
    X = wine.data.copy()
    X["shade"] = binned(X.pop("color_intensity"), ["pale", "medium", "deep"])
    X["kind"] = wine.target.map(dict(enumerate(["barolo", "grignolino", "barbera"])))
    yield "wine", "classify", with_holes(X, ["ash", "hue"]), "kind"

    cancer = datasets.load_breast_cancer(as_frame=True)
    X = cancer.data.copy()
    X["size"] = binned(X.pop("mean area"), ["small", "middle", "large"])
    X["diagnosis"] = cancer.target.map({0: "malignant", 1: "benign"})
    yield "breast cancer", "classify", with_holes(X, ["mean texture", "worst area"]), "diagnosis"

    diabetes = datasets.load_diabetes(as_frame=True, scaled=False)
    X = diabetes.data.copy()
    X["sex"] = X["sex"].map({1.0: "F", 2.0: "M"})
    X["progression"] = diabetes.target
    yield "diabetes", "regress", with_holes(X, ["bmi", "s5"]), "progression"

    digits = datasets.load_digits(as_frame=True)
    X = digits.data.copy()
    X["corner"] = np.where(X.pop("pixel_0_2") > 5, "ink", "blank")
    X["digit"] = digits.target.map(
        dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
    )
    yield "digits", "classify", with_holes(X, ["pixel_3_3", "pixel_4_4"]), "digit"

    A, y = autompg_data()
    names = ["cylinders", "displacement", "horsepower", "weight", "acceleration", "year", "origin"]
    X = pd.DataFrame(A[:, :7], columns=names)
    X["origin"] = X["origin"].map({1.0: "usa", 2.0: "europe", 3.0: "japan"})
    X["mpg"] = y
    yield "auto-MPG", "regress", with_holes(X, ["horsepower"]), "mpg"

    A, y = boston_housing_data()
    X = pd.DataFrame(
        A, columns=["crim", "zn", "indus", "chas", "nox", "rm", "age", "dis", "rad", "tax", "ptratio", "b", "lstat"]
    )
    X["chas"] = np.where(X["chas"] > 0, "river", "inland")
    X["medv"] = y
    yield "Boston housing", "regress", with_holes(X, ["rm", "age"]), "medv"


def with_holes(frame, columns, share=0.03):
    """The frame, a share of some columns missing."""
    rng = np.random.default_rng(7)
    for column in columns:
        frame.loc[rng.random(len(frame)) < share, column] = np.nan
    return frame


def command(*argv) -> str:
    """What a command prints, called in this process."""
    from fastopt.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in argv])
    if status:
        raise RuntimeError(err.getvalue())
    return out.getvalue()


def ours(train, test, target, hidden, seed, folder) -> np.ndarray:
    """Predictions of one command that trains and one that predicts, as text."""
    train.to_csv(folder / "train.csv", index=False)
    test[[name for name in reversed(test.columns) if name != target]].to_csv(folder / "test.csv", index=False)
    model = folder / "model.safetensors"
    options = ["--target", target, "--impute", "median", "--seed", seed, "--hidden", *hidden]
    command("train", folder / "train.csv", *options, "--out", model)
    return np.array(command("predict", model, folder / "test.csv").split())


def theirs(task, train, target, hidden, seed, standardized):
    """A pipeline of scikit-learn, fitted."""
    from sklearn.compose import TransformedTargetRegressor, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    X = train.drop(columns=target)
    numbers = list(X.select_dtypes("number"))
    text = [name for name in X if name not in numbers]
    model = (MLPClassifier if task == "classify" else MLPRegressor)(hidden_layer_sizes=hidden, random_state=seed)
    if standardized:
        model = TransformedTargetRegressor(model, transformer=StandardScaler())
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), text),
    )
    return make_pipeline(columns, model).fit(X, train[target])


def accuracy(hidden, seeds):
    """A row of a table for each data set."""
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, StratifiedKFold

    warnings.simplefilter("ignore")  # scikit-learn's MLP does not converge in its 200 epochs
    with tempfile.TemporaryDirectory() as folder:
        for name, task, frame, target in data_sets():
            kind = StratifiedKFold if task == "classify" else KFold
            scores = {"fastopt": [], "as it is": [], "standardized": []}
            for seed in range(seeds):
                of_folds = {side: [] for side in scores}
                for train, test in kind(5, shuffle=True, random_state=seed).split(frame, frame[target]):
                    train, test = frame.iloc[train], frame.iloc[test]
                    y = test[target].to_numpy()
                    found = ours(train, test, target, hidden, seed, Path(folder))
                    score = np.mean(found == y) if task == "classify" else r2_score(y, found.astype(float))
                    of_folds["fastopt"].append(score)
                    for side, standardized in (("as it is", False), ("standardized", True))[: 1 + (task == "regress")]:
                        model = theirs(task, train, target, hidden, seed, standardized)
                        of_folds[side].append(model.score(test.drop(columns=target), y))
                for side, values in of_folds.items():
                    scores[side].append(np.mean(values) if values else -np.inf)
            mine = np.array(scores["fastopt"])
            peer = np.array(max(scores["as it is"], scores["standardized"], key=np.mean))
            shown = [f"{np.mean(a):.4f} ± {error(a):.4f}" for a in (mine, peer)]
            print(
                f"| {name} | {shown[0]} | {shown[1]} | {np.mean(mine - peer):+.4f} ± {error(mine - peer):.4f} |",
                flush=True,
            )


def error(values) -> float:
    """Standard error of the mean."""
    return np.std(values, ddof=1) / np.sqrt(len(values))


# ---------------------------------------------------------------- memory


def memory(megabytes):
    """Peak memory of `train` in a process of its own, over the bytes of its features in float32; and its time."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "big.csv")
        with open(path, "w") as stream:
            stream.write(",".join(f"c{j}" for j in range(99)) + ",y\n")
            while stream.tell() < megabytes * 1e6:
                X = rng.standard_normal((2000, 99)) * 1000
                rows = np.column_stack([X, X[:, :5].sum(axis=1)])
                stream.write("".join(",".join(f"{value:.4f}" for value in row) + "\n" for row in rows))
        argv = [sys.executable, "-m", "fastopt", "train", path, "--out", Path(folder, "m.safetensors"), "--json"]
        argv += ["--epochs", "1", "--hidden", "8", "--batch-size", "256", "--validation", "0.1", "--test", "0.1"]
        said = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        n = sum(said["rows"].values())
        size = 4 * n * said["features"]
        print(f"{os.path.getsize(path) / 1e6:.0f} MB, {n} rows: peak {peak / 1e6:.0f} MB, {peak / size:.2f} times")
        print(f"the features in float32; {used.ru_utime + used.ru_stime:.0f} s of processor time")


def main():
    """Print one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "memory"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 64])
    parser.add_argument("--megabytes", type=float, default=1000)
    args = parser.parse_args()
    accuracy(args.hidden, args.seeds) if args.what == "accuracy" else memory(args.megabytes)


if __name__ == "__main__":
    main()
