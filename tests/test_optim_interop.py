"""Optimizers and what surrounds them: state and files, torch, foreign arrays, the Trainer.

Pass criterion: two runs that are promised to be one are equal in every bit; numbers of
torch are met within the tolerances of test_optim.py.
"""

import array
import contextlib
import copy
import gc
import importlib.util
import inspect
import json
import os
import pickle
import warnings

import numpy as np
import pytest
from pairs import pairwise
from reference import OPTIONS, RULES, in_torch, moments
from test_optim import (
    CASES,
    RTOL,
    as_torch_counts,
    assert_close,
    assert_same,
    cases,
    data,
    every_case,
    everything,
    make,
)

import fastopt as fo

every_torch_rule = pytest.mark.parametrize("rule", [rule for rule in RULES if in_torch(rule, {})])
TORCH_CASES = [(rule, o) for rule, o in CASES if in_torch(rule, o)]
every_torch_case = cases(TORCH_CASES)

# ---------------------------------------------------------------- state


@every_case
def test_state_dict_is_plain_has_torchs_names_and_holds_copies(rule, options, dtype):
    params, grads = data(dtype, steps=2)
    optimizer = make(rule, params, **options)
    optimizer.step(grads[0])
    state = optimizer.state_dict()
    assert state.keys() == {"rule", "state", "param_groups", "steps", "accumulated", "accumulate"}
    assert (state["steps"], state["accumulated"], state["accumulate"]) == (1, 0, 1)
    assert list(state["state"]) == state["param_groups"][0]["params"] == list(range(len(params)))
    for i, entry in state["state"].items():
        assert entry.keys() == {"step", *moments(rule, options), *(["mu_product"] if rule == "NAdam" else [])}
        assert type(entry["step"]) is int
        assert all(
            (entry[name].shape, entry[name].dtype) == (params[i].shape, dtype) for name in moments(rule, options)
        )
    group = {**getattr(fo.optim, rule).defaults, **options}
    assert {name: v for name, v in state["param_groups"][0].items() if name != "params"} == group
    json.dumps(state["param_groups"])
    kept = copy.deepcopy(state)
    optimizer.step(grads[1])
    assert_same(state, kept)


def test_state_dict_holds_averages_and_accumulated_gradients():
    params, grads = data(np.float32, steps=3)
    optimizer = make("SGD", params, ema_decay=0.9, accumulate=2)
    for step in grads:
        optimizer.step(step)
    state = optimizer.state_dict()
    assert (state["steps"], state["accumulated"]) == (1, 1)
    for i, entry in state["state"].items():
        assert entry.keys() == {"step", "ema", "accumulated"}
        assert entry["ema"].shape == entry["accumulated"].shape == params[i].shape


def test_state_dict_holds_a_schedule_as_its_config():
    optimizer = fo.optim.SGD([np.ones(1)], lr=fo.schedules.Power(0.1, 0.3))
    lr = optimizer.state_dict()["param_groups"][0]["lr"]
    assert lr == fo.schedules.Power(0.1, 0.3).config()
    assert type(lr) is dict


def round_trip(optimizer, twin, way, path):
    if way == "file":
        optimizer.save(path)
        twin.load(path)
    else:
        twin.load_state_dict(optimizer.state_dict())


WAYS = ["dict", "file"]
every_way = pytest.mark.parametrize("way", WAYS)


@pairwise(case=CASES, way=WAYS, dtype=RTOL)
def test_a_round_trip_of_the_state_continues_bit_for_bit(case, way, dtype, tmp_path):
    rule, options = case
    params, grads = data(dtype, steps=10)
    optimizer = make(rule, params, **options)
    for t, step in enumerate(grads[:5]):
        optimizer.step([g if (t + i) % 3 else None for i, g in enumerate(step)])
    twins = [a.copy() for a in params]
    twin = make(rule, twins, lr=0.5)
    round_trip(optimizer, twin, way, tmp_path / "o.safetensors")
    assert_same(twin.state_dict(), optimizer.state_dict())
    for step in grads[5:]:
        optimizer.step(step)
        twin.step(step)
    assert_same(everything(twin), everything(optimizer))


@every_way
def test_schedules_averages_and_accumulated_gradients_make_the_round_trip(way, dtype, tmp_path):
    params, grads = data(dtype, steps=12)
    whole = {"accumulate": 3, "ema_decay": 0.9, "max_norm": 4.0, "check_finite": "skip"}
    groups = lambda arrays: [{"params": arrays[:2]}, {"params": arrays[2:], "lr": 0.3}]  # noqa: E731
    optimizer = make("Adam", groups(params), lr=fo.schedules.Power(0.1, 0.3), weight_decay=0.1, **whole)
    for step in grads[:5]:
        optimizer.step(step)
    twins = [a.copy() for a in params]
    twin = make("Adam", groups(twins), **whole)
    round_trip(optimizer, twin, way, tmp_path / "o.safetensors")
    assert twin.param_groups[0]["lr"] == fo.schedules.Power(0.1, 0.3)
    assert twin.steps == 1
    for step in grads[5:]:
        optimizer.step(step)
        twin.step(step)
    assert_same(everything(twin), everything(optimizer))


@every_way
def test_options_that_are_numbers_of_numpy_make_the_round_trip(way, tmp_path):
    w, twin_w = np.ones(3), np.ones(3)
    options = {"lr": np.float32(0.25), "betas": (np.float64(0.5), np.float32(0.5)), "amsgrad": np.True_}
    optimizer, twin = fo.optim.Adam([w], **options), fo.optim.Adam([twin_w])
    round_trip(optimizer, twin, way, tmp_path / "o.safetensors")
    for o in (optimizer, twin):
        o.step([np.ones(3)])
    assert_same(twin_w, w)


def test_a_loaded_state_is_a_copy():
    w, twin_w, g = np.ones(3), np.ones(3), np.ones(3)
    optimizer, twin = fo.optim.Adam([w]), fo.optim.Adam([twin_w])
    optimizer.step([g])
    state = optimizer.state_dict()
    twin.load_state_dict(state)
    kept = copy.deepcopy(state)
    twin.step([g])
    assert_same(state, kept)


BAD_STATES = {
    "another shape": lambda s: s["state"][0].update(exp_avg_sq=np.zeros(4)),
    "another shape of the same size": lambda s: s["state"][1].update(exp_avg_sq=np.zeros((3, 2))),
    "a moment that is missing": lambda s: s["state"][1].pop("exp_avg"),
    "a moment that is no array": lambda s: s["state"][1].update(exp_avg="zero"),
    "a negative count": lambda s: s["state"][1].update(step=-1),
    "a group too few": lambda s: s["param_groups"].pop(),
    "a parameter too many": lambda s: s["param_groups"][0]["params"].append(7),
    "an option out of range": lambda s: s["param_groups"][1].update(lr=-1.0),
    "a schedule unknown": lambda s: s["param_groups"][1].update(lr={"schedule": "Sometimes"}),
    "no groups": lambda s: s.pop("param_groups"),
    "no state": lambda s: s.pop("state"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_state_that_does_not_fit_is_refused_whole(case):
    a, b = np.ones(3), np.ones((2, 3))
    optimizer = fo.optim.Adam([{"params": [a]}, {"params": [b], "lr": 0.3}], lr=0.1)
    optimizer.step([np.ones(3), np.ones((2, 3))])
    before = everything(optimizer)
    bad = optimizer.state_dict()
    for entry in bad["state"].values():
        entry["exp_avg"] += 1
    bad["param_groups"][0]["lr"] = 0.7
    BAD_STATES[case](bad)
    with pytest.raises(ValueError, match="state_dict"):
        optimizer.load_state_dict(bad)
    assert_same(everything(optimizer), before)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage(path):
    content = bytearray(path.read_bytes())
    content[12] ^= 0xFF  # in the header
    path.write_bytes(content)


def foreign(path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, path)


def no_safetensors(path):
    path.write_bytes(b"PK\x03\x04 something else")


def a_network(path):
    fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0).save(path)


def other_shapes(path):
    other = fo.optim.Adam([np.ones(4)])
    other.step([np.ones(4)])
    other.save(path)


def another_rule(path):
    other = fo.optim.SGD([np.ones(3)], momentum=0.9)
    other.step([np.ones(3)])
    other.save(path)


@pytest.mark.parametrize(
    "spoil",
    [truncate, damage, foreign, no_safetensors, a_network, other_shapes, another_rule],
    ids=lambda f: f.__name__,
)
def test_a_file_that_is_damaged_or_foreign_is_refused_and_nothing_changes(spoil, tmp_path):
    w, path = np.ones(3), tmp_path / "o.safetensors"
    optimizer = fo.optim.Adam([w], lr=0.1)
    optimizer.step([np.ones(3)])
    optimizer.save(path)
    optimizer.step([np.ones(3)])
    before = everything(optimizer)
    spoil(path)
    with pytest.raises(ValueError, match=r"o\.safetensors"):
        optimizer.load(path)
    assert_same(everything(optimizer), before)


def test_a_file_that_is_missing_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fo.optim.SGD([np.ones(3)]).load(tmp_path / "nothing.safetensors")


# ---------------------------------------------------------------- torch


def skip_where_others_stand_in():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch and jax are not built for it")
    if "FASTOPT_TEST_LEVEL" in os.environ:
        pytest.skip("inside the run of one level: the oracle covers it")


@pytest.fixture
def torch():
    """torch, which keeps its own scalars (NAdam's mu_product) in its default dtype: float64 here."""
    skip_where_others_stand_in()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


class Peer:
    """torch.optim's rule over tensors of the same numbers."""

    def __init__(self, torch, rule, params, **options):
        self.torch, self.tensors = torch, [torch.tensor(a, requires_grad=True) for a in params]
        self.optimizer = getattr(torch.optim, rule)(self.tensors, foreach=False, **options)

    def set_grads(self, grads):
        for t, g in zip(self.tensors, grads, strict=True):
            t.grad = None if g is None else self.torch.from_numpy(g.copy())

    def step(self, grads):
        self.set_grads(grads)
        self.optimizer.step()

    def params(self):
        return [t.detach().numpy() for t in self.tensors]


@every_torch_case
def test_every_option_equals_torch_over_100_steps(rule, options, dtype, torch):
    params, grads = data(dtype)
    optimizer, peer = make(rule, params, **options), Peer(torch, rule, params, **options)
    for step in grads:
        optimizer.step(step)
        peer.step(step)
    assert_close(params, peer.params())


@every_torch_rule
def test_defaults_and_the_order_of_arguments_are_those_of_torch(rule, torch):
    ours = {name: p for name, p in inspect.signature(getattr(fo.optim, rule)).parameters.items() if name != "self"}
    theirs = inspect.signature(getattr(torch.optim, rule)).parameters
    in_order = [name for name, p in ours.items() if p.kind is not p.KEYWORD_ONLY]
    assert in_order == list(theirs)[: len(in_order)]
    shared = [name for name in getattr(fo.optim, rule).defaults if name in theirs]
    assert {"lr", "weight_decay", "maximize"} <= set(shared)
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}


def test_lions_arguments_come_in_the_order_of_its_paper():
    assert list(inspect.signature(fo.optim.Lion).parameters)[:4] == ["params", "lr", "betas", "weight_decay"]


@every_torch_rule
def test_options_changed_between_steps_act_as_in_torch(rule, dtype, torch):
    forms = [o for o in OPTIONS[rule] if in_torch(rule, o) and as_torch_counts(o)] * 2
    # torch makes all moments at the first step, SGD's buffer at the first that needs it
    first = {} if rule == "SGD" else max(forms, key=lambda o: len(moments(rule, o)))
    params, grads = data(dtype, steps=5 * len(forms) + 5)
    optimizer, peer = make(rule, params, **first), Peer(torch, rule, params, **first)
    defaults = {name: v for name, v in getattr(fo.optim, rule).defaults.items() if name in peer.optimizer.defaults}
    for t, step in enumerate(grads):
        options = {**defaults, **[first, *forms][t // 5]}
        optimizer.param_groups[0].update(options)
        peer.optimizer.param_groups[0].update(options)
        optimizer.step(step)
        peer.step(step)
    assert_close(params, peer.params())


@every_torch_case
def test_parameters_without_gradient_and_a_group_added_later_act_as_in_torch(rule, options, dtype, torch):
    params, grads = data(dtype, steps=20)
    optimizer, peer = make(rule, params[:4], **options), Peer(torch, rule, params[:4], **options)
    for t, step in enumerate(grads):
        if t == 10:
            later = [torch.tensor(a, requires_grad=True) for a in params[4:]]
            optimizer.add_param_group({"params": params[4:], "lr": 0.03})
            peer.optimizer.add_param_group({"params": later, "lr": 0.03})
            peer.tensors += later
        given = [None if (i + t) % 3 == 0 else g for i, g in enumerate(step[: len(peer.tensors)])]
        optimizer.step(given)
        peer.step(given)
    assert_close(params, peer.params())


# not infinity: torch's lerp makes NaN of it where the formula does not
@every_torch_case
def test_gradients_that_are_not_a_number_act_as_in_torch(rule, options, dtype, torch):
    params, grads = data(dtype, shapes=[(19,)], steps=6)
    grads[2][0][17] = np.nan
    optimizer, peer = make(rule, params, **options), Peer(torch, rule, params, **options)
    for step in grads:
        optimizer.step(step)
        peer.step(step)
    assert_close(params, peer.params())


CLIPS = {
    "max_norm": lambda torch, tensors, limit: torch.nn.utils.clip_grad_norm_(tensors, limit, foreach=False),
    "clip_value": lambda torch, tensors, limit: torch.nn.utils.clip_grad_value_(tensors, limit, foreach=False),
}


@pairwise(case=TORCH_CASES, clip=CLIPS, dtype=RTOL)
def test_clipping_acts_as_torchs_before_its_step(case, clip, dtype, torch):
    rule, options = case
    params, grads = data(dtype, steps=10)
    optimizer, peer = make(rule, params, **{clip: 2.0}, **options), Peer(torch, rule, params, **options)
    for step in grads:
        optimizer.step(step)
        peer.set_grads(step)
        norm = CLIPS[clip](torch, peer.tensors, 2.0)
        peer.optimizer.step()
        assert clip == "clip_value" or optimizer.grad_norm == pytest.approx(norm.item(), rel=RTOL[dtype])
    assert_close(params, peer.params())


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
@pytest.mark.parametrize("limit", [2.0, 1e6])
def test_clip_functions_act_as_torchs(value, limit, dtype, torch):
    params, (grads,) = data(dtype, steps=1)
    grads[1][2, 3] = value
    peer = Peer(torch, "SGD", params)
    for clip, function in (("max_norm", fo.functional.clip_grad_norm_), ("clip_value", fo.functional.clip_grad_value_)):
        peer.set_grads(grads)
        want, found = CLIPS[clip](torch, peer.tensors, limit), function(grads, limit)
        assert clip == "clip_value" or found == pytest.approx(want.item(), rel=RTOL[dtype], nan_ok=True)
        assert_close(grads, [t.grad.numpy() for t in peer.tensors])


@every_torch_case
def test_a_state_of_torch_is_taken_over(rule, options, dtype, torch):
    params, grads = data(dtype, steps=20)
    peer = Peer(torch, rule, params, **options)
    for t, step in enumerate(grads[:10]):
        peer.step([None if i == 2 or (i + t) % 4 == 0 else g for i, g in enumerate(step)])
    params = [a.copy() for a in peer.params()]
    optimizer = make(rule, params, lr=0.5)
    optimizer.load_state_dict(peer.optimizer.state_dict())
    for step in grads[10:]:
        optimizer.step(step)
        peer.step(step)
    assert_close(params, peer.params())


@every_torch_case
def test_torch_takes_over_a_state(rule, options, dtype, torch):
    params, grads = data(dtype, steps=20)
    optimizer = make(rule, params, **options)
    for t, step in enumerate(grads[:10]):
        optimizer.step([None if i == 2 or (i + t) % 4 == 0 else g for i, g in enumerate(step)])
    peer = Peer(torch, rule, params, lr=0.5)
    state = optimizer.torch_state_dict()
    peer.optimizer.load_state_dict(state)
    for step in grads[10:]:
        optimizer.step(step)
        peer.step(step)
    assert_close(params, peer.params())


def test_a_state_taken_from_or_given_to_torch_is_a_copy(torch):
    params, grads = data(np.float32, steps=3)
    optimizer, peer = make("Adam", params), Peer(torch, "Adam", params)
    optimizer.step(grads[0])
    peer.optimizer.load_state_dict(optimizer.torch_state_dict())
    before = everything(optimizer)
    peer.step(grads[1])
    assert_same(everything(optimizer), before)
    optimizer.load_state_dict(peer.optimizer.state_dict())
    before = everything(optimizer)
    peer.step(grads[2])
    assert_same(everything(optimizer), before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s["state"][0].update(exp_avg=s["state"][5]["exp_avg"]),
        lambda s: s["param_groups"][0]["params"].pop(),
        lambda s: s["param_groups"][0].update(lr=-1.0),
    ],
    ids=["shape", "group", "option"],
)
def test_a_state_of_torch_that_does_not_fit_is_refused_whole(spoil, torch):
    params, grads = data(np.float32, steps=2)
    optimizer, peer = make("Adam", params), Peer(torch, "Adam", params)
    optimizer.step(grads[0])
    peer.step(grads[1])
    state, before = copy.deepcopy(peer.optimizer.state_dict()), everything(optimizer)
    spoil(state)
    with pytest.raises(ValueError, match="state_dict"):
        optimizer.load_state_dict(state)
    assert_same(everything(optimizer), before)


@pytest.mark.parametrize("other", [rule for rule in RULES if in_torch(rule, {})])
@every_torch_rule
def test_a_state_of_another_rule_of_torch_is_refused_whole(rule, other, torch):
    params, grads = data(np.float32, steps=2)
    optimizer, peer = make(rule, params), Peer(torch, other, params)
    optimizer.step(grads[0])
    peer.step(grads[1])
    state, before = peer.optimizer.state_dict(), everything(optimizer)
    if (rule, other) in {(rule, rule), ("Adam", "AdamW")}:  # Adam takes decoupled_weight_decay=True over
        optimizer.load_state_dict(state)
        return
    with pytest.raises(ValueError, match="state_dict: expected one that fits this"):
        optimizer.load_state_dict(state)
    assert_same(everything(optimizer), before)


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_a_state_of_a_torch_that_did_not_tell_adam_from_adamw_is_taken(rule, torch):
    params, grads = data(np.float32, steps=1)
    optimizer, peer = make(rule, params), Peer(torch, rule, params)
    peer.step(grads[0])
    state = copy.deepcopy(peer.optimizer.state_dict())
    del state["param_groups"][0]["decoupled_weight_decay"]
    optimizer.load_state_dict(state)
    assert optimizer.steps == 1


def torch_model(torch, dtype):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3, bias=False)]
    return torch.nn.Sequential(*layers).to(torch.from_numpy(np.zeros(0, dtype)).dtype)


@every_torch_rule
def test_a_model_of_torch_is_trained_in_place(rule, dtype, torch):
    model, twin = torch_model(torch, dtype), torch_model(torch, dtype)
    x, y = (torch.from_numpy(a) for a in rows(50, dtype))
    optimizer = make(rule, [p.detach() for p in model.parameters()], lr=0.01)
    peer = getattr(torch.optim, rule)(twin.parameters(), lr=0.01, foreach=False)
    for _ in range(10):
        for net in (model, twin):
            net.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step([p.grad for p in model.parameters()])
        peer.step()
    assert_close(*([p.detach().numpy() for p in net.parameters()] for net in (model, twin)))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_from_torch_predicts_what_the_linear_gives_and_is_a_copy(bias, dtype, torch):
    x = rows(20, dtype)[0]
    linear = torch.nn.Linear(4, 5, bias=bias).to(torch.from_numpy(x).dtype)
    net = fo.nn.Sequential([fo.nn.Dense.from_torch(linear, activation="relu")], dtype=dtype)
    plain = fo.nn.Sequential([fo.nn.Dense.from_torch(linear)], dtype=dtype)
    want = linear(torch.from_numpy(x)).detach()
    assert_close([plain.predict(x), net.predict(x)], [want.numpy(), want.relu().numpy()])
    with torch.no_grad():
        linear.weight.zero_()
    assert_close([plain.predict(x)], [want.numpy()])


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_goes_to_torch_as_a_copy_and_comes_back_with_the_same_bits(bias, dtype, torch):
    net = fo.nn.Sequential([fo.nn.Dense(4, 5, activation="tanh", bias=bias)], rng=0, dtype=dtype)
    x, layer = rows(20, dtype)[0], net.layers[0]
    want = net.predict(x)
    linear = layer.to_torch()
    assert isinstance(linear, torch.nn.Linear)
    assert (linear.bias is None) == (not bias)
    assert_close([linear(torch.from_numpy(x)).tanh().detach().numpy()], [want])
    layer.weight[...] = 0
    back = fo.nn.Sequential([fo.nn.Dense.from_torch(linear, activation="tanh")], dtype=dtype)
    assert_same(back.predict(x), want)


def test_a_layer_outside_a_network_goes_to_torch_with_the_weights_it_came_with_or_not_at_all(torch):
    linear = torch.nn.Linear(4, 5)
    back = fo.nn.Dense.from_torch(linear).to_torch()
    assert torch.equal(back.weight, linear.weight)
    assert torch.equal(back.bias, linear.bias)
    with pytest.raises(AttributeError, match="Sequential"):
        fo.nn.Dense(4, 5).to_torch()


# ---------------------------------------------------------------- foreign arrays


class Exported:
    """Shows nothing of an array but its DLPack export."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def ctypes_array(a):
    return (np.ctypeslib.as_ctypes_type(a.dtype) * a.size).from_buffer_copy(a)


FOREIGN = {
    "array.array": lambda a: array.array(a.dtype.char, a.tobytes()),
    "ctypes": ctypes_array,
    "bytearray": lambda a: memoryview(bytearray(a.tobytes())).cast(a.dtype.char),
    "memoryview": lambda a: memoryview(a.copy()),
    "DLPack": lambda a: Exported(a.copy()),
}
FLAT = ("array.array", "ctypes", "bytearray")
every_foreign = pytest.mark.parametrize("kind", [*FOREIGN, "torch"])


@pytest.fixture
def wrap(kind, request):
    """Puts copies of arrays into foreign objects of this kind; flat ones where it knows no shape."""
    if kind == "torch":
        from_numpy = request.getfixturevalue("torch").from_numpy
        return lambda arrays: [from_numpy(a.copy()) for a in arrays]
    return lambda arrays: [FOREIGN[kind](a) for a in arrays]


def seen(foreign):
    """What now stands in foreign objects."""
    return [np.array(np.from_dlpack(a) if hasattr(a, "__dlpack__") else memoryview(a)) for a in foreign]


@every_foreign
def test_a_foreign_parameter_is_updated_in_place(kind, wrap, dtype):
    shapes = [(257,), (16,), (1,)] if kind in FLAT else [(257,), (3, 5), (2, 3, 7)]
    params, grads = data(dtype, shapes=shapes, steps=5)
    theirs = wrap(params)
    form = {"lr": 0.1, "momentum": 0.9, "nesterov": "interim", "ema_decay": 0.9}
    optimizer, twin = make("SGD", theirs, **form), make("SGD", params, **form)
    for step in grads:
        optimizer.step(step)
        twin.step(step)
    assert_same(seen(theirs), params)
    for one, other in ((optimizer.interim_point(), twin.interim_point()), (optimizer.averaged(), twin.averaged())):
        with one, other:
            assert_same(seen(theirs), params)
    assert_same(seen(theirs), params)
    assert_same(optimizer.state_dict(), twin.state_dict())


@every_foreign
def test_a_foreign_gradient_is_read_where_it_lies(kind, wrap, dtype):
    shapes = [(257,), (16,), (1,)] if kind in FLAT else [(257,), (3, 5), (2, 3, 7)]
    (params, grads), (twins, _) = data(dtype, shapes=shapes, steps=3), data(dtype, shapes=shapes, steps=3)
    optimizer, twin = make("Adam", params, max_norm=1.0), make("Adam", twins, max_norm=1.0)
    for step in grads:
        theirs = wrap(step)
        optimizer.step(theirs)
        twin.step(step)
        assert_same(seen(theirs), step)
    assert_same(params, twins)


def test_a_bound_foreign_gradient_is_read_anew_at_every_step():
    w, g = np.zeros(3), array.array("d", [1.0, 1.0, 1.0])
    optimizer = fo.optim.SGD([w], lr=0.5)
    optimizer.bind([g])
    optimizer.step()
    g[1] = 3.0
    optimizer.step()
    np.testing.assert_array_equal(w, [-1.0, -2.0, -1.0])


def test_a_foreign_parameter_stays_alive_and_cannot_move_away():
    w = array.array("d", [1.0] * 1000)
    optimizer = fo.optim.SGD([w, memoryview(bytearray(8000)).cast("d")], lr=0.5)
    with pytest.raises(BufferError):
        w.extend(w)
    gc.collect()
    optimizer.step([np.ones(1000), np.ones(1000)])
    assert set(w) == {0.5}


def test_memory_shared_by_foreign_arrays_is_refused():
    a = array.array("d", [1.0] * 4)
    with pytest.raises(ValueError, match=r"params\[1\]"):
        fo.optim.SGD([a, memoryview(a)])
    optimizer = fo.optim.SGD([a], lr=0.5)
    with pytest.raises(ValueError, match=r"grads\[0\]"):
        optimizer.step([memoryview(a)])
    assert list(a) == [1.0] * 4


def read_only():
    a = np.ones(3)
    a.flags.writeable = False
    return a


UNFIT = {
    "integers": lambda: array.array("i", [1, 2, 3]),
    "bytes": lambda: bytearray(24),
    "a strided memoryview": lambda: memoryview(np.ones(6))[::2],
    "a strided export": lambda: Exported(np.ones(6)[::2]),
    "an export of integers": lambda: Exported(np.ones(3, int)),
    "a string": lambda: "abc",
    "a number": lambda: 1.0,
}
READ_ONLY = {
    "a memoryview of bytes": lambda: memoryview(bytes(24)).cast("d"),
    "a read-only memoryview": lambda: memoryview(np.ones(3)).toreadonly(),
    "a read-only export": lambda: Exported(read_only()),
}


@pytest.mark.parametrize("case", [*UNFIT, *READ_ONLY])
def test_a_foreign_parameter_that_cannot_be_updated_is_refused(case):
    with pytest.raises((TypeError, ValueError), match=r"params\[1\]"):
        fo.optim.SGD([np.ones(2), {**UNFIT, **READ_ONLY}[case]()])


@pytest.mark.parametrize("case", UNFIT)
def test_a_foreign_gradient_that_does_not_fit_is_refused_and_nothing_changes(case):
    params = [np.ones(2), np.ones(3)]
    optimizer = fo.optim.SGD(params, momentum=0.9)
    before = everything(optimizer)
    with pytest.raises((TypeError, ValueError), match=r"grads\[1\]"):
        optimizer.step([np.ones(2), UNFIT[case]()])
    assert_same(everything(optimizer), before)


def test_tensors_that_cannot_be_updated_are_refused(torch):
    unfit = [
        torch.ones(3, requires_grad=True),
        torch.ones(3, dtype=torch.int64),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, 2).t(),
    ]
    for tensor in unfit:
        with pytest.raises((TypeError, ValueError), match=r"params\[0\]"):
            fo.optim.SGD([tensor])


def test_an_array_of_jax_is_refused_because_it_must_not_change(python):
    # in a process of its own: after jax has started, this one could no longer fork in peace
    skip_where_others_stand_in()
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    program = """
import jax.numpy as jnp, fastopt as fo
x = jnp.ones(3)
try:
    fo.optim.SGD([x]).step([jnp.ones(3)])
except (TypeError, ValueError) as error:
    print(error, x.tolist())
"""
    printed = python(program, JAX_PLATFORMS="cpu")
    assert printed.startswith("params[0]: ")
    assert printed.endswith("[1.0, 1.0, 1.0]\n")


# ---------------------------------------------------------------- the Trainer


def interim(**options):
    return {"lr": 0.05, "momentum": 0.9, "nesterov": "interim", **options}


def power(*arguments):
    return fo.schedules.Power(*arguments)


TRAINED = {
    **{rule: lambda rule=rule: (rule, {"lr": 0.01}) for rule in RULES},
    "max_norm": lambda: ("SGD", {"lr": 0.1, "momentum": 0.9, "max_norm": 0.3}),
    "clip_value": lambda: ("SGD", {"lr": 0.1, "momentum": 0.9, "clip_value": 0.01}),
    "accumulate": lambda: ("Adam", {"lr": 0.01, "accumulate": 3}),
    "ema_decay": lambda: ("Adam", {"lr": 0.01, "ema_decay": 0.9}),
    "check_finite": lambda: ("Adam", {"lr": 0.01, "check_finite": "raise"}),
    "schedule": lambda: ("AdamW", {"lr": power(0.1, 0.3), "weight_decay": power(0.1, 1.0)}),
    "interim": lambda: ("SGD", interim()),
    "interim with a schedule": lambda: ("SGD", interim(momentum=power(0.9, 0.1), max_norm=0.3)),
    "interim RMSprop": lambda: ("RMSprop", interim(lr=0.005, centered=True, clip_value=0.1)),
    "interim, all at once": lambda: ("SGD", interim(accumulate=2, ema_decay=0.9, max_norm=0.5, check_finite="skip")),
    "all at once": lambda: (
        "Adam",
        {"lr": power(0.1, 0.3), "accumulate": 3, "ema_decay": 0.9, "max_norm": 0.5, "check_finite": "skip"},
    ),
}
every_trained = pytest.mark.parametrize("form", TRAINED)


def rows(n=100, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(2, 3, (n, 4)).astype(dtype)
    return X, (X.sum(axis=1) > 8).astype(np.int64) + (X[:, 0] > 2)


def trainer_for(form, small_net, dtype=np.float32, seed=0, **changes):
    rule, options = TRAINED[form]()
    net = small_net(dtype=dtype, seed=seed)
    return fo.nn.Trainer(net, "cross_entropy", make(rule, net.parameters(), **{**options, **changes}), max_batch=16)


def step_by_hand(trainer, x, y, sample_weight=None):
    optimizer = trainer.optimizer
    ahead = any(group.get("nesterov") == "interim" for group in optimizer.param_groups)
    with optimizer.interim_point() if ahead else contextlib.nullcontext():
        loss, grads = trainer.net.value_and_grad(x, y, sample_weight=sample_weight)
    optimizer.step(grads)
    return loss


def assert_trained_alike(one, other):
    assert_same(everything(one.optimizer), everything(other.optimizer))
    assert one.optimizer.steps == other.optimizer.steps


def assert_equal_by_hand(form, one, other):
    """Equal in every bit, but for rounding where the norm comes from rows and not from gradients."""
    if form != "max_norm":
        assert_trained_alike(one, other)
        return
    rtol = 1e-4 if one.net.dtype == np.float32 else 1e-12
    assert one.optimizer.grad_norm == pytest.approx(other.optimizer.grad_norm, rel=rtol)
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@every_trained
def test_a_trainers_step_is_value_and_grad_and_the_optimizers_step_bit_for_bit(form, dtype, small_net):
    one, other = (trainer_for(form, small_net, dtype) for _ in range(2))
    for t, n in enumerate((7, 1, 32, 50, 16, 7)):
        X, y = rows(n, dtype, seed=t)
        weight = np.linspace(0.1, 1, n) if t % 2 else None
        assert one.step(X, y, weight) == pytest.approx(
            step_by_hand(other, X, y, weight), rel=1e-5 * (form == "max_norm"), abs=0
        )
        assert_equal_by_hand(form, one, other)
    if form != "max_norm" and "max_norm" in TRAINED[form]()[1]:
        assert one.optimizer.grad_norm == other.optimizer.grad_norm


@pytest.mark.filterwarnings("ignore:accumulate:UserWarning")  # gradients that wait for an update
@every_trained
def test_fit_is_its_batches_by_hand_bit_for_bit(form, small_net):
    X, y = rows(100)
    one, other = trainer_for(form, small_net), trainer_for(form, small_net)
    one.fit(X, y, epochs=2, batch_size=16, shuffle=False)
    for _ in range(2):
        for i in range(0, 100, 16):
            step_by_hand(other, X[i : i + 16], y[i : i + 16])
    assert_equal_by_hand(form, one, other)


def test_fit_follows_a_schedule_for_more_than_a_thousand_updates(small_net):
    X, y = rows(400)
    one, other = trainer_for("schedule", small_net), trainer_for("schedule", small_net)
    one.fit(X, y, epochs=3, batch_size=1, shuffle=False)
    for _ in range(3):
        for i in range(400):
            step_by_hand(other, X[i : i + 1], y[i : i + 1])
    assert_trained_alike(one, other)


@pytest.mark.filterwarnings("ignore:accumulate:UserWarning")  # gradients that wait for an update
@every_trained
def test_save_and_resume_continue_bit_for_bit(form, small_net, tmp_path):
    X, y = rows(100)
    whole, first = trainer_for(form, small_net), trainer_for(form, small_net)
    whole.fit(X, y, epochs=3, batch_size=16)
    first.fit(X, y, epochs=2, batch_size=16)  # 14 batches: not a multiple of what is accumulated
    first.save(tmp_path / "run.safetensors")
    second = trainer_for(form, small_net, seed=3, lr=0.5)
    second.resume(tmp_path / "run.safetensors")
    second.fit(X, y, epochs=1, batch_size=16)
    assert_trained_alike(second, whole)


@pytest.mark.parametrize("form", ["Adam", "interim", "accumulate", "ema_decay"])
def test_check_finite_raises_in_a_trainer_changes_nothing_and_the_step_can_be_repeated(form, small_net):
    one, other = trainer_for(form, small_net, check_finite="raise"), trainer_for(form, small_net)
    X, y = rows(8)
    bad = X.copy()
    bad[5, 2] = np.nan
    for _ in range(3):
        before = everything(one.optimizer)
        with pytest.raises(FloatingPointError, match=r"grads\["):
            one.step(bad, y)
        assert_same(everything(one.optimizer), before)
        assert one.step(X, y) == other.step(X, y)
    assert_same(everything(one.optimizer), everything(other.optimizer))


@pytest.mark.filterwarnings("ignore:accumulate:UserWarning")  # gradients that wait for an update
@pytest.mark.parametrize("form", ["Adam", "interim", "accumulate", "schedule"])
def test_check_finite_skips_batches_in_fit_and_counts_them(form, small_net):
    X, y = rows(96)
    X[40] = np.inf
    one, other = trainer_for(form, small_net, check_finite="skip"), trainer_for(form, small_net)
    one.fit(X, y, epochs=2, batch_size=16, shuffle=False)
    for _ in range(2):
        for i in range(0, 96, 16):
            if i != 32:
                step_by_hand(other, X[i : i + 16], y[i : i + 16])
    assert one.optimizer.skipped == 2
    assert_same(everything(one.optimizer), everything(other.optimizer))


def test_check_finite_raised_in_fit_leaves_whole_batches_behind(small_net):
    X, y = rows(96)
    X[40] = np.nan
    one, other = trainer_for("check_finite", small_net), trainer_for("check_finite", small_net)
    with pytest.raises(FloatingPointError, match=r"grads\["):
        one.fit(X, y, batch_size=16, shuffle=False)
    for i in (0, 16):
        step_by_hand(other, X[i : i + 16], y[i : i + 16])
    assert_trained_alike(one, other)


SWITCHED = {
    "momentum": ("SGD", {"lr": 0.05}, {"momentum": 0.9}),
    "amsgrad": ("Adam", {"lr": 0.05}, {"amsgrad": True}),
    "centered": ("RMSprop", {"lr": 0.01}, {"centered": True, "momentum": 0.9}),
    "interim": ("SGD", {"lr": 0.05}, {"momentum": 0.9, "nesterov": "interim"}),
}


@pytest.mark.parametrize("switch", SWITCHED)
def test_options_switched_on_between_epochs_act_in_a_trainer_too(switch, small_net):
    rule, options, change = SWITCHED[switch]
    X, y = rows(100)
    trainers = []
    for _ in range(2):
        net = small_net(dtype=np.float32)
        trainers.append(fo.nn.Trainer(net, "cross_entropy", make(rule, net.parameters(), **options)))
    one, other = trainers
    for changed in ({}, change, options):
        for trainer in trainers:
            trainer.optimizer.param_groups[0].update({**getattr(fo.optim, rule).defaults, **options, **changed})
        one.fit(X, y, epochs=1, batch_size=25, shuffle=False)
        for i in range(0, 100, 25):
            step_by_hand(other, X[i : i + 25], y[i : i + 25])
    assert_trained_alike(one, other)


def test_a_state_loaded_into_a_trainers_optimizer_is_trained_on(small_net, tmp_path):
    X, y = rows(64)
    one, other = trainer_for("Adam", small_net), trainer_for("Adam", small_net)
    for trainer in (one, other):
        trainer.fit(X, y, batch_size=16)
    one.optimizer.save(tmp_path / "o.safetensors")
    one.step(X, y)
    one.optimizer.load(tmp_path / "o.safetensors")
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        a[...] = b
    assert one.step(X, y) == other.step(X, y)
    assert_trained_alike(one, other)


def test_averages_stand_in_the_network_while_asked_and_training_goes_on_after(small_net):
    X, y = rows(100)
    one, other = trainer_for("ema_decay", small_net), trainer_for("ema_decay", small_net)
    for trainer in (one, other):
        trainer.fit(X, y, epochs=2)
    before = one.net.predict(X)
    averaged = small_net(dtype=np.float32)
    for a, entry in zip(averaged.parameters(), one.optimizer.state_dict()["state"].values(), strict=True):
        a[...] = entry["ema"]
    with one.optimizer.averaged():
        assert_same(one.net.predict(X), averaged.predict(X))
    assert_same(one.net.predict(X), before)
    assert (averaged.predict(X) != before).any()
    for trainer in (one, other):
        trainer.fit(X, y)
    assert_trained_alike(one, other)


# ---------------------------------------------------------------- what a run must not lose


def test_sums_under_way_are_not_taken_over_by_another_accumulate():
    w = np.zeros(3)
    optimizer = make("SGD", [w], lr=1.0, accumulate=4)
    optimizer.step([np.ones(3)])
    other = make("SGD", [np.zeros(3)], lr=1.0)
    with pytest.raises(ValueError, match="sums of"):
        other.load_state_dict(optimizer.state_dict())
    other.step([np.ones(3)])
    np.testing.assert_array_equal(other.param_groups[0]["params"][0], -1)


@pytest.mark.parametrize("steps", [10**30, float("inf"), 2**60])
def test_a_count_too_large_is_refused_and_changes_nothing(steps):
    optimizer = make("Adam", [np.ones(3)], lr=0.1)
    before = optimizer.state_dict()
    bad = copy.deepcopy(before)
    bad["steps"], bad["param_groups"][0]["lr"] = steps, 0.5
    with pytest.raises(ValueError, match="state_dict"):
        optimizer.load_state_dict(bad)
    assert_same(optimizer.state_dict(), before)


def test_a_schedule_out_of_range_at_the_loaded_step_is_refused_whole():
    optimizer = make("SGD", [np.ones(3)], lr=fo.schedules.Exponential(1.0, -1.0))
    state = optimizer.state_dict()
    state["steps"] = 2000  # e^2000: no float
    with pytest.raises(ValueError, match="lr"):
        optimizer.load_state_dict(state)
    assert optimizer.steps == 0
    optimizer.step([np.zeros(3)])


def test_parameters_without_dimensions_are_saved_and_loaded(tmp_path):
    w = np.array(1.0)
    optimizer = make("Adam", [w])
    optimizer.step([np.array(2.0)])
    optimizer.save(tmp_path / "state.safetensors")
    twin = make("Adam", [w.copy()])
    twin.load(tmp_path / "state.safetensors")
    assert_same(twin.state_dict(), optimizer.state_dict())


def test_options_given_as_arrays_are_saved_as_plain_values(tmp_path):
    optimizer = make("Adam", [np.ones(2)], lr=np.array(0.1), betas=np.array([0.5, 0.75]))
    optimizer.step([np.ones(2)])
    optimizer.save(tmp_path / "state.safetensors")
    group = optimizer.state_dict()["param_groups"][0]
    assert (group["lr"], list(group["betas"])) == (0.1, [0.5, 0.75])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copied_or_pickled_optimizer_goes_on_alone(how):
    w, grads = np.ones(5), [np.full(5, 0.5)]
    lr = fo.schedules.Power(0.1, 0.5)
    optimizer = make("SGD", [w], lr=lr, momentum=0.9, ema_decay=0.9, accumulate=2)
    for _ in range(3):
        optimizer.step(grads)
    twin = how(optimizer)
    mine = twin.param_groups[0]["params"][0]
    for _ in range(3):
        optimizer.step(grads)
        twin.step(grads)
    assert mine is not w
    np.testing.assert_array_equal(mine, w)
    assert_same(twin.state_dict(), optimizer.state_dict())
