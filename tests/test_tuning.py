"""Rates over batch sizes and threads: what is measured, where the knee is, what is left alone. No time is asserted."""

import numpy as np
import pytest

import fastopt as fo

QUICK = {"seconds": 1e-4, "repeats": 1}


@pytest.mark.parametrize("train", [False, True])
def test_every_pair_is_measured_and_the_network_left_as_it_was(train, small_net):
    net = small_net()
    before = [a.copy() for a in net.parameters()]
    tuning = fo.nn.tune(net, train=train, batch_sizes=[8, 1, 8], threads=[2, 1], **QUICK)
    assert (tuning.what, tuning.batch_sizes, tuning.threads) == ("train" if train else "predict", (1, 8), (1, 2))
    assert tuning.rows_per_second.shape == (2, 2)
    assert (tuning.rows_per_second > 0).all()
    for a, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_that_waits_for_statistics_is_measured_too():
    net = fo.nn.Sequential([fo.nn.Standardize(3), fo.nn.Dense(3, 2)], rng=0)
    assert fo.nn.tune(net, batch_sizes=[1], threads=[1], **QUICK).rows_per_second[0, 0] > 0
    assert not net.layers[0].calibrated


@pytest.mark.parametrize("train", [False, True])
def test_a_network_on_images_is_measured_on_images(train):
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0, input_shape=(4, 5, 3))
    assert fo.nn.tune(net, train=train, batch_sizes=[2], threads=[1], **QUICK).rows_per_second[0, 0] > 0


@pytest.mark.parametrize("train", [False, True])
def test_a_convolutional_network_is_measured(train):
    layers = [fo.nn.Conv2d(3, 4, 3, padding=1), fo.nn.MaxPool2d(2), fo.nn.Flatten(), fo.nn.Dense(16, 2)]
    net = fo.nn.Sequential(layers, rng=0, input_shape=(4, 5, 3))
    assert fo.nn.tune(net, train=train, batch_sizes=[2], threads=[1], **QUICK).rows_per_second[0, 0] > 0


def test_threads_are_those_of_the_process_by_default(small_net):
    with fo.num_threads(2):
        assert fo.nn.tune(small_net(), batch_sizes=[1], **QUICK).threads == (1, 2)


RATES = fo.nn.Tuning("predict", (1, 4, 16, 64), (1, 2), np.array([[10, 10], [89, 50], [91, 99], [100, 200.0]]))


def test_the_knee_is_the_smallest_batch_with_nine_tenths_of_the_most():
    assert (RATES.knee(1), RATES.knee(2)) == (16, 64)


def test_the_table_has_a_line_for_each_batch_and_a_star_at_each_knee():
    lines = RATES.table().splitlines()
    assert lines[1].split() == ["batch", "1", "thread", "2", "threads"]
    assert [line.split() for line in lines[2:]] == [
        ["1", "10", "10"],
        ["4", "89", "50"],
        ["16", "91*", "99"],
        ["64", "100", "200*"],
    ]


def test_the_drawing_is_written(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    RATES.plot(tmp_path / "tune.png")
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("bad", [{"batch_sizes": []}, {"batch_sizes": [0, 1]}, {"threads": [1.5]}, {"threads": [-1]}])
def test_counts_that_are_none_are_refused(bad, small_net):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected a whole number"):
        fo.nn.tune(small_net(), **bad)
