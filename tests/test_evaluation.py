"""Metrics of a network in `evaluate` and `fit`. What a metric itself computes: test_metrics.py.

Pass criterion: the number that the function of `fastopt.metrics`, or of scikit-learn, gives of the same predictions.
"""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import fastopt as fo
from fastopt import metrics, nn


def data(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)), rng.integers(0, 3, n), rng.uniform(0.1, 2, n)


def network(n_out=3, seed=0, **last):
    return nn.Sequential([nn.Dense(4, 8, activation="tanh"), nn.Dense(8, n_out, **last)], rng=seed)


X, CLASSES, WEIGHTS = data()
BINARY = (CLASSES == 1).astype(np.float64)
VALUES = X[:, 0] ** 2


# ---------------------------------------------------------------- evaluate


def test_evaluate_is_a_float_without_metrics_and_a_dict_of_loss_and_metrics_with_them():
    net = network()
    loss = net.evaluate(X, CLASSES)
    assert isinstance(loss, float)
    assert net.evaluate(X, CLASSES, metrics=[]) == loss
    found = net.evaluate(X, CLASSES, metrics=["accuracy", "zero_one_loss"])
    right = metrics.accuracy(CLASSES, net.predict(X))
    assert list(found.items()) == [("loss", loss), ("accuracy", right), ("zero_one_loss", 1 - right)]
    assert net.evaluate(X, CLASSES, metrics="accuracy") == {"loss": loss, "accuracy": right}


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["alike", "weighted"])
def test_classes_are_taken_of_logits_and_rows_count_by_their_weight(weight):
    net, binary = network(), network(1)
    found = net.evaluate(X, CLASSES, sample_weight=weight, metrics="accuracy")["accuracy"]
    best = net.predict_proba(X).argmax(axis=1)
    assert found == pytest.approx(sklearn_metrics.accuracy_score(CLASSES, best, sample_weight=weight), rel=1e-12)
    of_two = {"loss": "binary_cross_entropy", "sample_weight": weight, "metrics": ["accuracy", "zero_one_loss"]}
    likely = binary.predict_proba(X)[:, 0] > 0.5
    right = sklearn_metrics.accuracy_score(BINARY, likely, sample_weight=weight)
    assert 0.05 < right < 0.95  # so that a threshold of 1/2 on logits would be seen
    for y in (BINARY, BINARY[:, None], BINARY.astype(bool)):
        found = binary.evaluate(X, y, **of_two)
        assert found["accuracy"] == pytest.approx(right, rel=1e-12)
        assert found["zero_one_loss"] == pytest.approx(1 - right, rel=1e-12)


def test_probabilities_count_as_their_most_probable_class_and_ignored_labels_do_not_count():
    net = network()
    right = net.evaluate(X, CLASSES, metrics="accuracy")["accuracy"]
    assert net.evaluate(X, np.eye(3)[CLASSES], metrics="accuracy")["accuracy"] == right
    some, loss = CLASSES.copy(), nn.CrossEntropy(ignore_index=-1)
    some[::2] = -1
    found = net.evaluate(X, some, loss, metrics="accuracy")["accuracy"]
    assert found == net.evaluate(X[1::2], CLASSES[1::2], metrics="accuracy")["accuracy"]


def test_every_position_of_an_image_is_a_row():
    net = nn.Sequential([nn.Conv2d(2, 3, 1)], rng=0, input_shape=(4, 5, 2))
    rng = np.random.default_rng(1)
    images, y, weight = rng.normal(size=(6, 4, 5, 2)), rng.integers(0, 3, (6, 4, 5)), rng.uniform(1, 2, 6)
    found = net.evaluate(images, y, sample_weight=weight, metrics="accuracy")["accuracy"]
    best = net.predict(images).argmax(axis=3)
    assert found == pytest.approx(np.average((best == y).mean(axis=(1, 2)), weights=weight), rel=1e-12)


def test_functions_get_targets_and_predictions_and_of_a_single_output_both_flat():
    net, seen = network(1), {}

    def error(y, y_pred):
        seen["shapes"] = (y.shape, y_pred.shape)
        return np.abs(y - y_pred).mean()

    for y in (VALUES, VALUES[:, None], VALUES.tolist()):
        found = net.evaluate(X, y, "mse", metrics=[error, "r2_score", sklearn_metrics.mean_absolute_error])
        assert seen["shapes"] == ((60,), (60,))
        y_pred = net.predict(X)[:, 0]
        assert found["error"] == pytest.approx(found["mean_absolute_error"], rel=1e-12)
        assert found["r2_score"] == pytest.approx(sklearn_metrics.r2_score(VALUES, y_pred), rel=1e-12)
    logits = {}
    network().evaluate(X, CLASSES, metrics={"keep": lambda y, y_pred: logits.update(it=y_pred) or 0})
    np.testing.assert_array_equal(logits["it"], network().predict(X))


def test_weights_go_to_functions_that_take_them_and_others_are_refused():
    net = network(1)
    mae = sklearn_metrics.mean_absolute_error
    found = net.evaluate(X, VALUES, "mse", sample_weight=WEIGHTS, metrics=mae)["mean_absolute_error"]
    assert found == pytest.approx(mae(VALUES, net.predict(X), sample_weight=WEIGHTS), rel=1e-12)
    trainer, held = nn.Trainer(net, "mse", "sgd"), (X, VALUES, WEIGHTS)
    most = {"metrics": {"most": lambda y, y_pred: 1.0}}
    for call in (
        lambda: net.evaluate(X, VALUES, "mse", sample_weight=WEIGHTS, **most),
        lambda: trainer.fit(X, VALUES, sample_weight=WEIGHTS, **most),
        lambda: trainer.fit([(X, VALUES)], validation=held, **most),
    ):
        with pytest.raises(ValueError, match=r"^metrics: expected most to take sample_weight=, for rows have weights"):
            call()
    assert trainer.compiled_training.batches == 0


REFUSED = {
    "no such name": ("rmse", "mse", ValueError, "^metrics: expected one of accuracy, r2_score, zero_one_loss, or a f"),
    "no metric": (3, "mse", TypeError, r"^metrics: expected names or functions of \(y, y_pred\), got 3"),
    "of values": (
        "accuracy",
        "mse",
        ValueError,
        "expected cross_entropy or binary_cross_entropy for accuracy, got .* m",
    ),
    "one class": ("accuracy", "cross_entropy", ValueError, "expected several outputs of cross_entropy for accuracy"),
    "twice": (["r2_score", "r2_score"], "mse", ValueError, "expected a name of its own for each, .* got 'r2_score'"),
    "the loss": ({"loss": "r2_score"}, "mse", ValueError, "other than loss and val_..., got 'loss'"),
    "val_": ({"val_loss": "r2_score"}, "mse", ValueError, "other than loss and val_..., got 'val_loss'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_metrics_that_do_not_fit_are_refused_before_any_work(what):
    wanted, loss, error, match = REFUSED[what]
    net = network(1)
    trainer = nn.Trainer(net, loss, "sgd")
    before = [a.copy() for a in net.parameters()]
    for call in (
        lambda: net.evaluate(X, VALUES, loss, metrics=wanted),
        lambda: trainer.fit(X, np.zeros(60, int) if loss == "cross_entropy" else VALUES, metrics=wanted),
    ):
        with pytest.raises(error, match=match):
            call()
    assert trainer.epoch == 0
    for a, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_accuracy_of_several_sigmoids_and_an_answer_that_is_no_number_are_refused():
    net = network(3)
    with pytest.raises(ValueError, match="expected one output of binary_cross_entropy for accuracy, got 3"):
        net.evaluate(X, np.eye(3)[CLASSES], "binary_cross_entropy", metrics="accuracy")
    with pytest.raises(TypeError, match=r"^metrics: expected both to return a number, got list"):
        net.evaluate(X, CLASSES, metrics={"both": lambda y, y_pred: [1, 2]})


# ---------------------------------------------------------------- fit


def test_fit_measures_training_and_validation_rows_after_each_epoch_in_inference_mode():
    layers = [nn.Dense(4, 8), nn.BatchNorm(8, activation="relu"), nn.Dropout(0.5), nn.Dense(8, 3)]
    net = nn.Sequential(layers, rng=0, dtype=np.float64)
    held, wanted = (*data(30, 1)[:2], WEIGHTS[:30]), ["accuracy", "zero_one_loss"]
    expected = []

    def evaluate(trainer, history):
        mine = net.evaluate(X, CLASSES, sample_weight=WEIGHTS, metrics=wanted)
        theirs = net.evaluate(held[0], held[1], sample_weight=held[2], metrics=wanted)
        expected.append([mine["accuracy"], mine["zero_one_loss"], *theirs.values()])

    history = nn.Trainer(net, "cross_entropy", "adam").fit(
        X, CLASSES, 3, validation=held, metrics=wanted, sample_weight=WEIGHTS, callbacks=evaluate
    )
    names = ["accuracy", "zero_one_loss", "val_loss", "val_accuracy", "val_zero_one_loss"]
    assert set(history) == {"loss", *names}
    np.testing.assert_allclose([history[name] for name in names], np.transpose(expected), rtol=1e-12)


def test_metrics_change_no_step_and_no_loss_and_are_there_without_validation():
    made = []
    for wanted in (None, "accuracy"):
        net = network()
        history = nn.Trainer(net, "cross_entropy", "adam").fit(X, CLASSES, epochs=2, metrics=wanted)
        made.append(([a.tobytes() for a in net.parameters()], history["loss"]))
    assert made[0] == made[1]
    assert list(history) == ["loss", "accuracy"]


def test_batches_of_an_iterable_are_measured_on_validation_alone():
    batches = [(X[:30], CLASSES[:30]), (X[30:], CLASSES[30:])]
    trainer = nn.Trainer(network(), "cross_entropy", "adam")
    history = trainer.fit(batches, epochs=2, validation=(X, CLASSES), metrics="zero_one_loss")
    assert set(history) == {"loss", "val_loss", "val_accuracy", "val_zero_one_loss"}
    with pytest.raises(ValueError, match=r"^metrics: expected validation data with an iterable of batches, got none"):
        trainer.fit(batches, metrics="accuracy")
    assert trainer.epoch == 2


def test_a_run_that_has_diverged_has_nan_for_what_is_not_defined():
    net = network(1)
    trainer = nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=1e38))
    wanted = {"r2": "r2_score", "mae": sklearn_metrics.mean_absolute_error}
    with np.errstate(over="ignore", invalid="ignore"):
        history = trainer.fit(X, VALUES, 1, 60, validation=(X, VALUES), metrics=wanted)
    assert not math.isfinite(history["val_loss"][0])
    assert all(math.isnan(history[name][0]) for name in ("r2", "mae", "val_r2", "val_mae"))


def test_an_error_of_a_function_reaches_the_caller_and_the_epoch_is_measured_by_the_next_fit():
    trainer = nn.Trainer(network(), "cross_entropy", "adam")
    with pytest.raises(ValueError, match="lassification metrics can't"):
        trainer.fit(X, CLASSES, metrics=sklearn_metrics.accuracy_score)  # of logits
    assert trainer.epoch == 0
    history = trainer.fit(X, CLASSES, metrics="accuracy")
    assert trainer.epoch == len(history["accuracy"]) == 1
