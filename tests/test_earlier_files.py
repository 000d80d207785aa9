"""Files of earlier versions: they load, resume and predict the bits they did then.

`data/record.py` wrote them, and what they gave at every instruction-set level. Pass criterion: all bits where this
build computes as the recording one did (`canary`); elsewhere, by another compiler, within RTOL.
"""

import copy
import pickle

import numpy as np
import pytest
from data import record
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastopt as fo

RTOL = 1e-5
CASES = [(front, dtype) for front in record.FRONTS for dtype in record.DTYPES]
every_case = pytest.mark.parametrize(("front", "dtype"), CASES)


@pytest.fixture(scope="module")
def recorded():
    level = f"{fo.config()['isa']}."
    known = load_file(record.FOLDER / "recorded.safetensors")
    known = {name.removeprefix(level): a for name, a in known.items() if name.startswith(level)}
    if not known:
        pytest.skip("nothing was recorded at this instruction-set level")
    return known


def assert_as_recorded(recorded, name, got):
    if np.array_equal(record.canary(), recorded["canary"]):
        np.testing.assert_array_equal(got, recorded[name])
    else:
        np.testing.assert_allclose(got, recorded[name], rtol=RTOL, atol=RTOL)


def load(front, dtype, way="file"):
    if way == "file":
        return fo.nn.load(record.FOLDER / f"{front}-{dtype}.safetensors")
    return pickle.loads((record.FOLDER / f"{front}-{dtype}.pickle").read_bytes())


@pytest.mark.parametrize("way", ["file", "pickle", "written again", "copied"])
@every_case
def test_networks_predict_and_train_with_the_bits_recorded(front, dtype, way, recorded, tmp_path):
    net = load(front, dtype, "pickle" if way == "pickle" else "file")
    if way == "written again":
        net.save(tmp_path / "m.safetensors")
        net = fo.nn.load(tmp_path / "m.safetensors")
    elif way == "copied":
        net = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    x, y = record.data()
    assert_as_recorded(recorded, f"{front}-{dtype}.predict32", net.predict(x.astype(np.float32)))
    assert_as_recorded(recorded, f"{front}-{dtype}.predict64", net.predict(x))
    grads = net.value_and_grad(x, y, "mse")[1]
    assert_as_recorded(recorded, f"{front}-{dtype}.grad", np.concatenate([g.ravel() for g in grads]))


@every_case
def test_a_network_is_written_as_it_was(front, dtype, tmp_path):
    old, new = record.FOLDER / f"{front}-{dtype}.safetensors", tmp_path / "m.safetensors"
    load(front, dtype).save(new)
    assert new.read_bytes() == old.read_bytes()


@every_case
def test_runs_continue_within_an_epoch_with_the_bits_recorded(front, dtype, recorded):
    trainer = record.new_trainer(record.network(front, dtype))
    trainer.resume(record.FOLDER / f"{front}-{dtype}.run.safetensors")
    assert_as_recorded(recorded, f"{front}-{dtype}.resumed", record.continued(trainer))


def test_a_run_resumed_in_place_of_an_earlier_one_reads_the_input_as_it_comes(tmp_path):
    x, y = record.data()
    one = record.new_trainer(record.network("standardize", "float32"))
    one.fit(x, y, batch_size=5)
    one.save(tmp_path / "run.safetensors")
    other = record.new_trainer(record.network("standardize", "float32"))
    other.resume(record.FOLDER / "standardize-float32.run.safetensors")
    assert (other.net.predict(x) == other.net.predict(x.astype(np.float32))).all()
    other.resume(tmp_path / "run.safetensors")
    np.testing.assert_array_equal(other.net.predict(x), one.net.predict(x))
    assert (one.net.predict(x) != one.net.predict(x.astype(np.float32))).any()


def same(a, b):
    """Whether two objects hold the same: numbers to RTOL, everything else exactly."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | float):
        return np.allclose(a, b, rtol=RTOL, atol=RTOL, equal_nan=True)
    return type(a) is type(b) and a == b


def test_pickles_of_other_objects_load_where_their_classes_have_moved_since():
    earlier, fresh = pickle.loads((record.FOLDER / "objects.pickle").read_bytes()), record.objects()
    assert earlier.keys() == fresh.keys()
    for name, old in earlier.items():
        new = fresh[name]
        assert type(old) is type(new)
        if isinstance(new, fo.optim.Optimizer):
            for optimizer in (old, new):
                optimizer.step([record.near(3)])
            assert same(old.state_dict(), new.state_dict())
            assert same(old.parameters(), new.parameters())
        elif isinstance(new, fo.newton.GLMResult):
            assert same(
                [old.coef, old.intercept, old.predict(record.data()[0])],
                [new.coef, new.intercept, new.predict(record.data()[0])],
            )
        elif name == "NewtonCG":
            x, y = record.near(3), record.data()[1]
            assert same(old.step(x, y), new.step(x, y))
            assert same(old.net.parameters(), new.net.parameters())
        elif name == "Trainer":
            assert same(dict(record.continue_stopped(old)), dict(record.continue_stopped(new)))
            assert same(old.net.parameters(), new.net.parameters())
        else:
            assert old == new


@pytest.mark.parametrize("front", record.FRONTS)
def test_statistics_taken_anew_are_taken_of_the_data_as_it_comes(front):
    net = load(front, "float32").calibrate(record.data()[0])
    fresh = record.network(front, "float32").calibrate(record.data()[0])
    np.testing.assert_array_equal(net.layers[0].mean, fresh.layers[0].mean)
    assert net.layers[0].stored()["mean"].dtype == np.float64
    x = record.data()[0]
    first = [fo.nn.Sequential([n.layers[0]]).predict(x) for n in (net, fresh)]
    np.testing.assert_array_equal(first[0], first[1])


@pytest.mark.parametrize(
    ("dtype", "narrow", "says"),
    [
        ("float32", ["scale"], "mean, scale: expected arrays of one dtype, got float64 and float32"),
        ("float64", ["mean", "scale"], r"layers.0.mean: expected float64 \(3,\), got float32 \(3,\)"),
    ],
)
def test_statistics_that_no_version_wrote_are_refused(dtype, narrow, says, tmp_path):
    fo.nn.Sequential([fo.nn.Standardize(3)], dtype=dtype).calibrate(record.data()[0]).save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as stream:
        arrays, metadata = {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata()  # noqa: SIM118
    for name in narrow:
        arrays[f"layers.0.{name}"] = arrays[f"layers.0.{name}"].astype(np.float32)
    save_file(arrays, tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=says):
        fo.nn.load(tmp_path / "m.safetensors")
