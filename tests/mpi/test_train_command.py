"""`fastopt train --parallel`: every rank trains, rank 0 prints and writes, an error ends all."""

import contextlib
import json
import os

import numpy as np
import pytest

from fastopt import nn
from fastopt.cli import main


@pytest.fixture
def folder(comm, tmp_path):
    """A folder that all ranks share, with a table of 200 rows."""
    path = comm.mpi.bcast(str(tmp_path) if comm.rank == 0 else None)
    if comm.rank == 0:
        X = np.random.default_rng(0).normal(size=(200, 3)).round(3)
        rows = [f"{a},{b},{c},{'yes' if a > b else 'no'}" for a, b, c in X]
        (tmp_path / "table.csv").write_text("\n".join(["a,b,c,more", *rows]) + "\n")
    comm.tell("the table is there")
    return path


def train(folder, *options, parallel="data"):
    options = ("--epochs", "20", "--batch-size", "8", "--out", f"{folder}/model.safetensors", *options)
    return main(["train", f"{folder}/table.csv", *(["--parallel", parallel] if parallel else []), *options])


WAYS = [("data", ()), ("server", ()), ("server", ("--max-staleness", "0", "--optimizer", "Adagrad"))]


@pytest.mark.parametrize(("parallel", "options"), WAYS)
def test_all_ranks_train_and_the_first_tells_and_writes(comm, folder, capsys, parallel, options):
    if parallel == "server" and comm.size == 1:
        pytest.skip("a server and a worker are two ranks")
    assert train(folder, "--validation", "0.2", "--json", *options, parallel=parallel) == 0
    printed = capsys.readouterr()
    if comm.rank:
        assert printed.out == printed.err == ""
        return
    report = json.loads(printed.out)
    assert report["validation"]["accuracy"] > 0.9
    assert nn.load(report["model"]).in_features == 3
    assert os.listdir(folder).count("model.safetensors") == 1
    forms = [form(report["model"])]
    assert train(folder, "--validation", "0.2", "--json", parallel=None) == 0
    assert form(report["model"]) == forms[0]  # as one process writes it


def form(path):
    net = nn.load(path)
    return [repr(layer) for layer in net.layers], [a.shape for a in net.parameters()], net.metadata


def test_options_of_servers_are_refused_without_them(comm, folder, capsys):
    for option in ("--servers", "--max-staleness"):
        with contextlib.suppress(SystemExit):
            assert train(folder, option, "1") == 2
        if comm.rank == 0:
            assert capsys.readouterr().err == f"fastopt train: {option}: expected --parallel server with it, got data\n"


def test_more_servers_than_ranks_are_one_error(comm, folder, capsys):
    with contextlib.suppress(SystemExit):
        assert train(folder, "--servers", "4", parallel="server") == 2
    said = capsys.readouterr().err
    assert said.startswith("fastopt train: servers: expected fewer than the" if comm.rank == 0 else "")
    assert said.count("\n") == (comm.rank == 0)


def test_an_error_of_one_rank_ends_all_and_is_printed_once(comm, folder, capsys):
    last = comm.size - 1
    data = f"{folder}/nowhere.csv" if comm.rank == last else f"{folder}/table.csv"
    command = ["train", data, "--parallel", "data", "--out", f"{folder}/model.safetensors"]
    if comm.rank:
        with pytest.raises(SystemExit, match="2"):
            main(command)
    else:
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith("fastopt train: " + (f"rank {last}: " if last else ""))
        assert "nowhere.csv" in said
        assert said.count("\n") == 1
        assert not os.path.exists(f"{folder}/model.safetensors")


def test_a_model_of_counts_is_fitted_by_one_process(comm, folder, capsys):
    if comm.rank:
        with pytest.raises(SystemExit):
            train(folder, "--task", "count")
    else:
        assert main(["train", f"{folder}/table.csv", "--task", "count", "--parallel", "data"]) == 2
        assert "--parallel: expected none with --task count" in capsys.readouterr().err
