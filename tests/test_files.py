"""Files: networks, runs and states of optimizers, written whole or not at all, believed only after a check.

Pass criterion: a file that is not what its reader expects is one ValueError that names it, and what it was to be
loaded into keeps every bit; a save that fails or is killed leaves the old file as it was.
"""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc

import fuzz_files
import numpy as np
import pytest
from fuzz_files import assembled, bits, dismantled

import fastopt as fo
from fastopt import _files
from fastopt.nn import initialization

MOST_BYTES = 10 * 2**20  # that a refused file may cost


def rows(n=100, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(2, 3, (n, 4)).astype(np.float32)
    return X, (X.sum(axis=1) > 8).astype(np.int64) + (X[:, 0] > 2)


def trainer_of(small_net, rule=fo.optim.Adam, seed=0, dtype=np.float32, loss="cross_entropy"):
    net = small_net(dtype=dtype, seed=seed)
    return fo.nn.Trainer(net, loss, rule(net.parameters()))


# ---------------------------------------------------------------- files that are not what they seem


def damage(path):
    content = bytearray(path.read_bytes())
    content[12] ^= 0xFF  # in the header
    path.write_bytes(content)


def foreign(path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, path)


def rewrite(path, change):
    """The same file after a change of its document or arrays, these as (dtype, shape, bytes)."""
    document, arrays = dismantled(path.read_bytes())
    change(document, arrays)
    path.write_bytes(assembled(document, arrays))


def first(arrays):
    return next(iter(arrays))


def one():
    """An array of one element."""
    return ("F32", [1, 1], bytes(4))


def retype(arrays, dtype, itemsize):
    _, shape, _ = arrays[first(arrays)]
    arrays[first(arrays)] = (dtype, shape, bytes(itemsize * int(np.prod(shape))))


BAD_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a model at all, but long enough to hold a header"),
    "pickle": lambda path: path.write_bytes(pickle.dumps([1, 2, 3])),
    "header damaged": damage,
    "truncated in the header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "truncated in the data": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "safetensors of another program": foreign,
    "of another kind": lambda path: rewrite(path, lambda document, arrays: document.update(kind="optimizer")),
    "of a later format": lambda path: rewrite(path, lambda document, arrays: document.update(format=2)),
    "a format that is a flag": lambda path: rewrite(path, lambda document, arrays: document.update(format=True)),
    "a description that is no dict": lambda path: rewrite(path, lambda document, arrays: document.clear()),
    "an unknown layer": lambda path: rewrite(path, lambda document, arrays: document["layers"][0].update(type="Magic")),
    "an unknown option": lambda path: rewrite(path, lambda document, arrays: document["layers"][0].update(magic=1)),
    "no layers": lambda path: rewrite(path, lambda document, arrays: document.pop("layers")),
    "layers of no list": lambda path: rewrite(path, lambda document, arrays: document.update(layers=3)),
    "an impossible dtype": lambda path: rewrite(path, lambda document, arrays: document.update(dtype="int8")),
    "an array missing": lambda path: rewrite(path, lambda document, arrays: arrays.popitem()),
    "an array too many": lambda path: rewrite(path, lambda d, arrays: arrays.update({"layers.9.x": one()})),
    "an array of another shape": lambda path: rewrite(path, lambda d, arrays: arrays.update({first(arrays): one()})),
    "an array of another dtype": lambda path: rewrite(path, lambda d, arrays: retype(arrays, "I64", 8)),
    "bfloat16": lambda path: rewrite(path, lambda d, arrays: retype(arrays, "BF16", 2)),
    "float16": lambda path: rewrite(path, lambda d, arrays: retype(arrays, "F16", 2)),
    "8 bits": lambda path: rewrite(path, lambda d, arrays: retype(arrays, "F8_E4M3", 1)),
    "4 bits": lambda path: rewrite(path, lambda d, arrays: retype(arrays, "F4", 1)),
    "a dtype that is none": lambda path: rewrite(path, lambda d, arrays: retype(arrays, None, 1)),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_network_gets_one_error_naming_it(case, small_net, tmp_path):
    path = tmp_path / "m.safetensors"
    small_net(dtype=np.float32).save(path)
    BAD_FILES[case](path)
    with pytest.raises(ValueError, match=r"m\.safetensors: "):
        fo.nn.load(path)


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_run_leaves_the_trainer_as_it_was(case, small_net, tmp_path):
    path = tmp_path / "m.safetensors"
    saved = trainer_of(small_net)
    saved.fit(*rows())
    saved.save(path)
    BAD_FILES[case](path)
    trainer = trainer_of(small_net, seed=1)
    before = bits(trainer.__getstate__())
    with pytest.raises(ValueError, match=r"m\.safetensors: "):
        trainer.resume(path)
    assert bits(trainer.__getstate__()) == before


def test_a_run_of_another_rule_loss_or_network_is_refused(small_net, tmp_path):
    path = tmp_path / "run.safetensors"
    trainer_of(small_net).save(path)
    others = [
        trainer_of(small_net, fo.optim.SGD),
        trainer_of(small_net, loss="mse"),
        trainer_of(small_net, dtype=np.float64),
    ]
    for net in (fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0), small_net("relu", np.float32)):
        others.append(fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters())))
    for other in others:
        with pytest.raises(ValueError, match=r"does not fit this trainer"):
            other.resume(path)


@pytest.mark.parametrize("kind", ["network", "run"])
def test_a_flipped_bit_anywhere_in_a_header_is_refused_or_harmless(kind, small_net, tmp_path):
    path = tmp_path / "m.safetensors"
    trainer = trainer_of(small_net)
    (trainer.net if kind == "network" else trainer).save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for i in [*range(8), *range(8, header, 3)]:
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :])
        message = f"{path}: harmless"
        try:
            fo.nn.load(path) if kind == "network" else trainer.resume(path)
        except ValueError as error:
            message = str(error)
        assert message.startswith(f"{path}: ")


def test_missing_and_unreadable_files_are_the_usual_errors(tmp_path, small_net):
    with pytest.raises(FileNotFoundError):
        fo.nn.load(tmp_path / "nothing.safetensors")
    with pytest.raises(IsADirectoryError):
        fo.nn.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        small_net().save(tmp_path / "no" / "such" / "folder.safetensors")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(failing, small_net, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    small_net(seed=1).save(path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, failing, fail)
        with pytest.raises(OSError, match="no space"):
            small_net(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_file_is_readable_like_any_other_and_replaces_the_old_one(small_net, tmp_path):
    path, plain = tmp_path / "m.safetensors", tmp_path / "plain"
    plain.touch()
    small_net(seed=1).save(path)
    first = path.read_bytes()
    small_net(seed=2).save(path)
    assert path.read_bytes() != first
    assert path.stat().st_mode == plain.stat().st_mode


# ---------------------------------------------------------------- descriptions are checked before they are believed


def dense(n_in=1, n_out=1, **options):
    return {"type": "Dense", "in_features": n_in, "out_features": n_out, **options}


def shortcuts(depth, inside):
    return f'{{"type":"Residual","layers":[{"[" * 0}' * depth + json.dumps(inside) + "]}" * depth


def network_text(layers):
    text = layers if isinstance(layers, str) else json.dumps(layers)
    return f'{{"format":1,"kind":"network","dtype":"float32","layers":[{text[1:-1] if text[0] == "[" else text}]}}'


LIES = {
    "a weight of 3.6 TiB": [dense(10**6, 10**6)],
    "a weight of 1.5 GiB": [dense(20_000, 20_000)],
    "a weight of more bytes than an address counts": [dense(2**53, 2**53)],
    "a width beyond an integer of 64 bits": [dense(2**64, 1)],
    "pieces": [{"type": "Maxout", "in_features": 1, "out_features": 1, "pieces": 10**9}],
    "groups": [{"type": "GroupedDense", "in_features": 10**9, "out_features": 10**9, "groups": 10**9}],
    "statistics": [{"type": "BatchNorm", "features": 10**10}],
    "a covariance": [{"type": "Whiten", "features": 10**5}],
    "layers inside each other": shortcuts(5000, dense()),
    "shortcuts inside each other": shortcuts(200, dense(10**6, 10**6)),
    "branches inside each other": '{"type":"Concat","branches":[[' * 200
    + json.dumps(dense(10**6, 10**6))
    + "]]}" * 200,
    "many branches": [{"type": "Concat", "branches": [[dense()]] * 10_000}],
    "a filter": [{"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": [10**5, 10**5]}],
    "many layers": [dense()] * 10_000,
    "layers that do not follow each other": [dense(1, 1, bias=False), dense(10**6, 1)],
}


@pytest.mark.parametrize("case", LIES)
def test_a_description_that_its_arrays_belie_costs_nothing(case, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(assembled(network_text(LIES[case]), {"layers.0.weight": ("F32", [1, 1], bytes(4))}))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"m\.safetensors: "):
            fo.nn.load(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_arrays_of_a_refused_file_are_not_read(small_net, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    small_net().save(path)
    rewrite(path, lambda document, arrays: document["layers"][-1].update(in_features=5))
    monkeypatch.setattr(_files.File, "array", lambda self, name: pytest.fail(f"{name} was read"))
    with pytest.raises(ValueError, match="expected"):
        fo.nn.load(path)


@pytest.mark.parametrize("init", initialization.RULES)
def test_nothing_is_drawn_that_the_file_will_overwrite(init, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    net = fo.nn.Sequential([fo.nn.Maxout(4, 3), fo.nn.Dropout(0.5), fo.nn.Dense(3, 2, init=init)], rng=0)
    net.save(path)
    monkeypatch.setattr(initialization, "fill", lambda *args: pytest.fail("weights were drawn"))
    for a, b in zip(fo.nn.load(path).layers, net.layers, strict=True):
        assert bits(a.arrays()) == bits(b.arrays())


def test_what_a_layer_says_of_its_arrays_is_what_it_makes(dtype):
    for place, layer in fo.nn.layers.named(fuzz_files.network(dtype).layers):
        specs = {name: (spec.shape, spec.dtype) for name, spec in layer.array_specs(dtype).items()}
        assert specs == {name: (a.shape, a.dtype) for name, a in layer.arrays().items()}, place


def test_a_layer_may_adopt_an_array_of_another_dtype(tmp_path, monkeypatch):
    path, double = tmp_path / "m.safetensors", np.dtype(np.float64)
    fo.nn.Sequential([fo.nn.BatchNorm(2, affine=False), fo.nn.Dense(2, 1)], rng=0).save(path)
    rewrite(path, lambda document, arrays: retype(arrays, "F64", 8))
    with pytest.raises(ValueError, match="expected float32"):
        fo.nn.load(path)
    spec, adopted = fo.nn.layers.ArraySpec((2,), np.dtype(np.float32), (double,)), {}

    def adopt(self, arrays):
        adopted.update(arrays)
        self._arrays = {name: a.astype(np.float32) for name, a in arrays.items()}

    monkeypatch.setattr(fo.nn.layers.BatchNorm, "adopt", adopt)
    monkeypatch.setattr(
        fo.nn.layers.BatchNorm, "array_specs", lambda self, dtype: dict.fromkeys(("running_mean", "running_var"), spec)
    )
    fo.nn.load(path)
    assert sorted(a.dtype.name for a in adopted.values()) == ["float32", "float64"]


WRONG_ARGUMENTS = [
    ("Dense", {"in_features": 3, "out_features": 2}, "bias", ["false", "true", "", None, [], 2, 0.0, {}]),
    ("Dense", {"in_features": 3, "out_features": 2}, "in_features", [3.0, True, "3", None, [3], 0, -1, 2**53 + 1]),
    ("Dense", {"in_features": 3, "out_features": 2}, "activation", [["relu"], {"relu": 1}, None, 1, True, "cube"]),
    ("Dense", {"in_features": 3, "out_features": 2}, "init", [["he"], {"he": 1}, 1, True, "xavier"]),
    ("Dense", {"in_features": 3, "out_features": 2}, "l1", ["0", True, None, [0.0], -1, float("nan"), 10**400]),
    ("Dense", {"in_features": 3, "out_features": 2}, "max_norm", ["1", True, [1.0], 0, float("inf")]),
    ("GroupedDense", {"in_features": 4, "out_features": 2, "groups": 2}, "groups", [2.0, True, "2", 3]),
    ("Maxout", {"in_features": 3, "out_features": 2}, "pieces", [2.0, True, "2", 0]),
    ("BatchNorm", {"features": 3}, "affine", ["false", None, 2, []]),
    ("BatchNorm", {"features": 3}, "eps", ["1", True, None, 0.0, float("nan")]),
    ("BatchNorm", {"features": 3}, "momentum", ["1", True, None, 1.5, float("nan")]),
    ("Dropout", {"rate": 0.5}, "rate", ["0.5", True, None, 1.0, float("nan")]),
    ("RandomShift", {"height": 1, "width": 2}, "height", [1.0, True, "1", None, -1]),
    ("RandomFlip", {"horizontal": True, "vertical": False}, "vertical", ["true", None, 2, []]),
    ("Whiten", {"features": 3}, "kind", [["zca"], None, 1, "other"]),
    ("Whiten", {"features": 3}, "eps", ["1", True, None, -1.0, float("inf")]),
]


@pytest.mark.parametrize(
    ("kind", "given", "name", "value"),
    [(kind, given, name, value) for kind, given, name, values in WRONG_ARGUMENTS for value in values],
)
def test_an_argument_of_another_type_is_refused_by_constructor_and_reader(kind, given, name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        getattr(fo.nn, kind)(**{**given, name: value})
    path, layers = tmp_path / "m.safetensors", [getattr(fo.nn, kind)(**given)]
    width = layers[0].out_features or 2
    images = (4, 4, layers[0].in_features or 2)  # which every kind takes
    fo.nn.Sequential([*layers, fo.nn.Dense(width, 1)], rng=0, input_shape=images).save(path)
    rewrite(path, lambda document, arrays: document["layers"][0].update({name: value}))
    with pytest.raises(ValueError, match=rf"m\.safetensors: .*{name}: expected"):
        fo.nn.load(path)


@pytest.mark.parametrize("value", [False, np.False_, 0, np.int8(0)])
def test_flags_are_bools_or_0_and_1(value):
    assert fo.nn.Dense(3, 2, bias=value).config()["bias"] is False
    assert fo.nn.BatchNorm(3, affine=value).config()["affine"] is False


# ---------------------------------------------------------------- which file for whom


def test_the_file_of_a_run_gives_its_network(small_net, tmp_path):
    trainer = trainer_of(small_net)
    trainer.fit(*rows())
    trainer.save(tmp_path / "run.safetensors")
    net = fo.nn.load(tmp_path / "run.safetensors")
    np.testing.assert_array_equal(net.predict(rows()[0]), trainer.net.predict(rows()[0]))
    assert repr(net) == repr(trainer.net)


def test_a_file_of_another_kind_says_what_it_is_and_what_reads_it(small_net, tmp_path):
    path, trainer = tmp_path / "f.safetensors", trainer_of(small_net)
    trainer.optimizer.save(path)
    with pytest.raises(ValueError, match=r"expected a file of kind network or trainer, got optimizer; load of an "):
        fo.nn.load(path)
    trainer.save(path)
    with pytest.raises(ValueError, match=r"expected a file of kind optimizer, got trainer; Trainer\.resume goes on"):
        trainer.optimizer.load(path)
    trainer.net.save(path)
    with pytest.raises(ValueError, match=r"expected a file of kind trainer, got network; nn\.load reads it"):
        trainer.resume(path)


# ---------------------------------------------------------------- states of optimizers

WRONG_NUMBERS = [-1, 0.5, 3.0, 2**53 + 1, 2**63, 10**30, float("nan"), float("inf"), "3", True, None, [], {}, [1]]
NUMBERS = {
    "steps": lambda d, v: d.update(steps=v),
    "accumulated": lambda d, v: d.update(accumulated=v),
    "accumulate": lambda d, v: d.update(accumulate=v),
    "step": lambda d, v: d["state"]["1"].update(step=v),
    "mu_product": lambda d, v: d["state"]["0"].update(mu_product=1.5 if v == 0.5 else v),
    "params": lambda d, v: d["param_groups"][0].update(params=[v, 1]),
    "params twice": lambda d, v: d["param_groups"][0].update(params=[1, 1]),
    "all params": lambda d, v: d["param_groups"][0].update(params=v),
    "lr": lambda d, v: d["param_groups"][0].update(lr=-1.0 if v in (0.5, 3.0) or (type(v) is int and v > 0) else v),
    "betas": lambda d, v: d["param_groups"][0].update(betas=[v, 0.9] if v != 0.5 else [0.9]),
    "flag": lambda d, v: d["param_groups"][0].update(maximize="false" if v is True else v),
    "state": lambda d, v: d.update(state=v),
    "groups": lambda d, v: d.update(param_groups=v),
}


def summing():
    """An optimizer with every count above 0."""
    params = [np.ones(3), np.ones((2, 3))]
    optimizer = fo.optim.NAdam(params, accumulate=3)
    for _ in range(4):
        optimizer.step([np.ones(3), np.ones((2, 3))])
    return optimizer


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_a_state_is_checked_before_anything_changes(name, tmp_path):
    path, optimizer = tmp_path / "o.safetensors", summing()
    for value in WRONG_NUMBERS:
        optimizer.save(path)
        rewrite(path, lambda document, arrays, value=value: NUMBERS[name](document, value))
        optimizer.step([np.ones(3), np.ones((2, 3))])
        before = bits(optimizer.__getstate__())
        with pytest.raises(ValueError, match=r"o\.safetensors: does not fit this optimizer"):
            optimizer.load(path)
        assert bits(optimizer.__getstate__()) == before
        optimizer = summing()


RULES = {
    rule.__name__: rule
    for rule in (
        *(fo.optim.SGD, fo.optim.Adagrad, fo.optim.RMSprop, fo.optim.Adadelta, fo.optim.Adam, fo.optim.AdamW),
        *(fo.optim.RAdam, fo.optim.NAdam, fo.optim.Adamax, fo.optim.Lion, fo.optim.NewtonCG),
    )
}


def stepped(rule):
    optimizer = RULES[rule]([np.ones(3)])
    if rule != "NewtonCG":
        optimizer.step([np.ones(3)])
    return optimizer


@pytest.mark.parametrize("named", [True, False], ids=["with its name", "of an older version, without a name"])
@pytest.mark.parametrize("rule", RULES)
def test_a_state_is_taken_by_its_own_rule_and_by_no_other(rule, named):
    state = stepped(rule).state_dict()
    if not named:
        del state["rule"]
    for other in RULES:
        optimizer = stepped(other)
        before = bits(optimizer.__getstate__())
        if other == rule:
            optimizer.load_state_dict(state)
            continue
        with pytest.raises(ValueError, match=f"state_dict: .*expected state of {other}, got state of"):
            optimizer.load_state_dict(state)
        assert bits(optimizer.__getstate__()) == before


def test_state_with_keys_of_its_owner_and_few_options_is_taken():
    optimizer = fo.optim.SGD([np.ones(3)], lr=0.1, momentum=0.9)
    optimizer.load_state_dict({"state": {}, "param_groups": [{"params": [0], "lr": 0.5, "name": "weights"}]})
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.5, 0.9)


SECOND_MOMENTS = [
    (fo.optim.Adagrad, {}, "sum"),
    (fo.optim.RMSprop, {}, "square_avg"),
    (fo.optim.Adadelta, {}, "acc_delta"),
    (fo.optim.Adam, {"amsgrad": True}, "max_exp_avg_sq"),
    (fo.optim.NAdam, {}, "exp_avg_sq"),
    (fo.optim.Adamax, {}, "exp_inf"),
]


@pytest.mark.parametrize(("rule", "options", "name"), SECOND_MOMENTS)
def test_a_mean_of_squares_is_not_below_0_but_may_have_diverged(rule, options, name):
    optimizer = rule([np.ones(3, np.float32)], **options)
    optimizer.step([np.ones(3, np.float32)])
    for value, good in ((np.nan, True), (np.inf, True), (-0.0, True), (-1e-30, False), (1e300, False)):
        state = optimizer.state_dict()
        state["state"][0][name] = np.array([1.0, value, 1.0])
        if good:
            optimizer.load_state_dict(state)
            np.testing.assert_array_equal(optimizer.state_dict()["state"][0][name], np.array([1, value, 1], np.float32))
        else:
            before = bits(optimizer.__getstate__())
            with pytest.raises(ValueError, match="state_dict: "):
                optimizer.load_state_dict(state)
            assert bits(optimizer.__getstate__()) == before


@pytest.mark.parametrize("dtype", [complex, object, bool, "U3"])
def test_moments_are_real_numbers(dtype):
    optimizer = stepped("Adam")
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = np.ones(3, dtype)
    with pytest.raises(ValueError, match=r"state_dict: .*exp_avg"):
        optimizer.load_state_dict(state)


def test_a_state_is_refused_while_the_groups_hold_other_parameters():
    optimizer = stepped("Adam")
    state = optimizer.state_dict()
    state["steps"] = 7
    optimizer.param_groups[0]["params"] = [np.ones(3)]
    with pytest.raises(ValueError, match="param_groups: "):
        optimizer.load_state_dict(state)
    assert optimizer.steps == 1


def test_schedules_inside_each_other_end_somewhere():
    config = {"schedule": "Constant", "value": 0.1}
    for _ in range(100):
        config = {"schedule": "Warmup", "steps": 1, "then": config, "start": 0.0}
    with pytest.raises(ValueError, match="config: expected a dict, got 50 of them inside each other"):
        fo.schedules.from_config(config)


# ---------------------------------------------------------------- saving over what is there


def save_over(small_net, path, seed=0):
    """Saves a network and returns what a whole file of it holds."""
    net = small_net(seed=seed)
    net.save(path)
    plain = path.parent / "plain.safetensors"
    net.save(plain)
    content = plain.read_bytes()
    plain.unlink()
    return content


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_a_file_that_is_replaced_keeps_its_mode(mode, small_net, tmp_path):
    path = tmp_path / "m.safetensors"
    path.touch()
    path.chmod(mode)
    content = save_over(small_net, path)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_follows_the_umask(mask, small_net, tmp_path):
    before = os.umask(mask)
    try:
        small_net().save(tmp_path / "m.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there, small_net, tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.safetensors", tmp_path / "link.safetensors"
    if there:
        target.write_text("old")
    link.symlink_to(os.path.join("far", "target.safetensors"))
    content = save_over(small_net, link)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == [tmp_path / "far", link]
    assert list((tmp_path / "far").iterdir()) == [target]


def test_a_pipe_is_written_to(small_net, tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    small_net().save(pipe)
    reader.join()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert received == [save_over(small_net, tmp_path / "m.safetensors")]
    with pytest.raises(ValueError, match="pipe: expected a regular file, got a device or a pipe"):
        fo.nn.load(pipe)


def test_a_device_is_written_to(small_net):
    small_net().save("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_standard_output_is_written_to(where, small_net, tmp_path):
    content = save_over(small_net, tmp_path / "m.safetensors")
    program = f"import fastopt as fo; fo.nn.load({str(tmp_path / 'm.safetensors')!r}).save('/dev/stdout')"
    root = os.path.dirname(os.path.dirname(fo.__file__))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with open(tmp_path / "out", "wb") as out:
        target = subprocess.PIPE if where == "pipe" else out
        done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, stdout=target)
    assert (done.stdout if where == "pipe" else (tmp_path / "out").read_bytes()) == content


def test_a_folder_is_not_replaced(small_net, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        small_net().save(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_an_error_of_the_folder_names_the_file_that_was_asked_for(small_net, tmp_path):
    path = tmp_path / "no" / "m.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        small_net().save(path)
    assert caught.value.filename == str(path)


# ---------------------------------------------------------------- saves that are killed

KILLED = """
import os, signal, sys
import numpy as np, fastopt as fo
from fastopt import _files
def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(_files.os, sys.argv[2], kill)
fo.nn.Sequential([fo.nn.Dense(2, 2)], rng=1).save(sys.argv[1])
"""


def killed_save(path, at):
    root = os.path.dirname(os.path.dirname(fo.__file__))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), at], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_killed_save_leaves_the_old_file_and_the_next_save_clears_up(at, tmp_path):
    path, net = tmp_path / "m.safetensors", fo.nn.Sequential([fo.nn.Dense(2, 2)], rng=0)
    net.save(path)
    before = path.read_bytes()
    killed_save(path, at)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    others = [tmp_path / name for name in (".m.safetensors.part", ".other.0123456789abcdef.part", "m.part")]
    for other in others:
        other.touch()
    net.save(path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_saves_to_one_name_at_once_take_nothing_from_each_other(small_net, tmp_path):
    path, errors = tmp_path / "m.safetensors", []
    nets = [small_net(seed=seed) for seed in range(4)]
    contents = {save_over(small_net, path, seed) for seed in range(4)}

    def save(net):
        try:
            for _ in range(25):
                net.save(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- by search


def test_a_short_run_of_the_fuzzer_finds_nothing(tmp_path):
    fuzzer = fuzz_files.Fuzzer(tmp_path)
    fuzzer.check_seeds()
    fuzzer.run(seed=12, files=400)
    assert fuzzer.accepted > 70
    assert fuzzer.refused > 200


def test_the_fuzzer_finds_a_reader_that_changes_something_before_it_refuses(tmp_path, monkeypatch):
    fuzzer, load = fuzz_files.Fuzzer(tmp_path), fo.optim.Optimizer.load

    def careless(self, path):
        self.param_groups[0]["lr"] = 0.123
        load(self, path)

    monkeypatch.setattr(fo.optim.Optimizer, "load", careless)
    with pytest.raises(AssertionError, match="a refused file changed"):
        fuzzer.run(seed=1, files=200)
    assert list(tmp_path.glob("failed-*.safetensors"))


def test_a_variance_below_0_is_refused(tmp_path):
    net = fo.nn.Sequential([fo.nn.BatchNorm(3), fo.nn.Dense(3, 2)], rng=0)
    trainer = fo.nn.Trainer(net, "mse", "sgd")
    net.layers[0].running_var = [1.0, -1.0, 1.0]
    net.save(tmp_path / "net")
    trainer.save(tmp_path / "run")
    net.layers[0].running_var = [1.0, 2.0, 1.0]
    for read in (lambda: fo.nn.load(tmp_path / "net"), lambda: trainer.resume(tmp_path / "run")):
        with pytest.raises(ValueError, match=r"running_var: expected variances of at least 0, got -1\.0"):
            read()
    assert net.layers[0].running_var.tolist() == [1.0, 2.0, 1.0]


def test_an_ignored_label_of_numpy_is_saved(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    trainer = fo.nn.Trainer(net, fo.nn.CrossEntropy(ignore_index=np.int64(-1)), "sgd")
    trainer.save(tmp_path / "run")
    trainer.resume(tmp_path / "run")


# ---------------------------------------------------------------- metadata of the user

METADATA = {
    "version": "2026-11-29",
    "labels": ["no", "yes", None],
    "format": 7,  # names that the document of a file has for itself
    "kind": "optimizer",
    "layers": [{"type": "Magic"}],
    "dtype": "int8",
    "fastopt": {"é\ud800\0": [1.5, True, 2**70]},
    "": {},
}


@pytest.mark.parametrize("kind", ["network", "trainer"])
def test_metadata_of_any_names_comes_back_from_both_kinds_of_files_and_collides_with_nothing(kind, small_net, tmp_path):
    trainer = trainer_of(small_net)
    if kind == "network":
        trainer.net.save(tmp_path / "m", metadata=METADATA)
        assert trainer.net.metadata == {}
    else:
        trainer.net.metadata = METADATA
        trainer.save(tmp_path / "m")
    net = fo.nn.load(tmp_path / "m")
    assert net.metadata == fo.nn.read_metadata(tmp_path / "m") == METADATA
    assert repr(net) == repr(trainer.net)
    net.save(tmp_path / "again")
    assert fo.nn.read_metadata(tmp_path / "again") == METADATA
    trainer.net.save(tmp_path / "none", metadata={})
    assert fo.nn.read_metadata(tmp_path / "none") == {}


def nested(depth, value="x"):
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_METADATA = {
    "no dict": ([("a", 1)], "metadata: expected a dict, got list"),
    "a number for a name": ({1: "a"}, "metadata: expected names of type str, got 1"),
    "a number for a name inside": ({"a": [{"b": {1: 2, "1": 3}}]}, "metadata: expected names of type str, got 1"),
    "not a number": ({"a": [float("nan")]}, "metadata: expected JSON values, got others"),
    "an array": ({"a": np.zeros(2)}, "metadata: expected JSON values, got others"),
    "a scalar of NumPy": ({"a": np.float32(1)}, "metadata: expected JSON values, got others"),
    "bytes": ({"a": b"x"}, "metadata: expected JSON values, got others"),
    "half a million levels": (nested(500_000), "metadata: expected JSON values, got others"),
    "too long a text": ({"a": "é" * 5_000_000}, r"m: expected metadata and layers of at most 25000000 char.*, got 30"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_METADATA)
def test_metadata_that_a_file_could_not_give_back_is_refused_and_the_file_stays(case, small_net, tmp_path):
    trainer, (metadata, message) = trainer_of(small_net), BAD_METADATA[case]
    trainer.net.save(tmp_path / "m", metadata={"a": "b"})
    before = (tmp_path / "m").read_bytes()
    with pytest.raises((TypeError, ValueError), match=message):
        trainer.net.save(tmp_path / "m", metadata=metadata)
    trainer.net.metadata = metadata
    with pytest.raises((TypeError, ValueError), match=message):
        trainer.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before


@pytest.mark.parametrize("metadata", [[], "text", 3, None])
def test_metadata_of_a_damaged_file_is_refused(metadata, small_net, tmp_path):
    small_net(dtype=np.float32).save(tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", lambda document, arrays: document.update(metadata=metadata))
    for read in (fo.nn.load, fo.nn.read_metadata):
        with pytest.raises(ValueError, match=r"m\.safetensors: .*metadata: expected a dict"):
            read(tmp_path / "m.safetensors")


def test_metadata_is_read_without_the_arrays_and_not_from_the_file_of_an_optimizer(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(2000, 2000, init="zeros")])
    net.save(tmp_path / "m", metadata={"a": "b"})
    tracemalloc.start()
    assert fo.nn.read_metadata(tmp_path / "m") == {"a": "b"}
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20  # of 16 MB of weights
    fo.optim.SGD(net.parameters()).save(tmp_path / "optimizer")
    with pytest.raises(ValueError, match="expected a file of kind network or trainer, got optimizer"):
        fo.nn.read_metadata(tmp_path / "optimizer")


# ---------------------------------------------------------------- in a service


def test_a_service_that_loads_folds_and_predicts_loads_nothing_heavier_than_numpy(small_net, tmp_path, python):
    small_net().save(tmp_path / "m", metadata={"labels": ["a", "b", "c"]})
    program = f"""
import sys, fastopt as fo
net = fo.nn.load({str(tmp_path / "m")!r}).fold()
assert net.metadata == fo.nn.read_metadata({str(tmp_path / "m")!r}) == {{"labels": ["a", "b", "c"]}}
net.predict([[1, 2, 3, 4]], check_finite=True)
print(*{{name.partition(".")[0] for name in sys.modules}} & {{"scipy", "sklearn", "tqdm", "torch", "pandas"}})
"""
    assert python(program) == "\n"


def test_threads_that_predict_while_a_file_is_replaced_and_read_again_meet_one_network_or_the_other(
    small_net, tmp_path
):
    X, path, served = rows()[0], tmp_path / "m", {}
    nets = [small_net(seed=seed, dtype=np.float32) for seed in range(2)]
    wanted = {net.fold().predict(X).tobytes() for net in nets}
    found, end = set(), threading.Event()

    def serve():
        while not end.is_set():
            found.add(served["net"].predict(X).tobytes())

    def reload():
        served["net"] = fo.nn.load(path).fold()

    nets[0].save(path)
    reload()
    workers = [threading.Thread(target=serve) for _ in range(3)]
    for worker in workers:
        worker.start()
    for turn in range(20):
        nets[turn % 2].save(path)
        reload()
    end.set()
    for worker in workers:
        worker.join()
    assert found
    assert found <= wanted
