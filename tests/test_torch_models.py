"""Networks that come from torch and go there: `nn.from_torch`, `Sequential.to_torch`.

Pass criterion: both predict the same to rounding, in float32 and float64, and one step of gradient descent leads to the
same parameters and running averages; what fastopt cannot say is one error that names the module and its place. Where
torch is missing, stand-ins with its attributes and a recorded network take its place (data/torch_models.py).
"""

import copy
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt as fo
from fastopt.nn.interchange.flattening import channels_last_columns
from fastopt.nn.layers import LAYERS, walk

sys.path.insert(0, str(Path(__file__).parent / "data"))
import torch_models
from torch_models import Tensor, chained, stand_in

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}  # of outputs and parameters, times the largest


@pytest.fixture
def torch():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    return pytest.importorskip("torch", reason="torch is not installed")


def assert_close(got, want, dtype, times=1):
    limit = times * TOLERANCE[np.dtype(dtype).name] * max(1, np.abs(want).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=0, atol=limit)


def channels_first(x):
    return np.moveaxis(x, -1, 1).copy()  # also of one channel, see findings/torch-conv2d-of-one-channel-strides.sh


# ---------------------------------------------------------------- without torch


def test_the_columns_of_a_flattened_image_are_found_channels_first(rng):
    image = rng.normal(size=(4, 3, 2))
    columns = channels_last_columns(*image.shape)
    assert columns.dtype == np.intp
    np.testing.assert_array_equal(channels_first(image[None]).ravel()[columns], image.ravel())


def test_a_network_that_torch_trained_predicts_and_trains_as_recorded(dtype):
    x = torch_models.images().transpose(0, 2, 3, 1)
    with np.load(torch_models.TABLE) as table:
        assert str(table["torch"]).startswith("2.13.0")
        net = fo.nn.from_torch(torch_models.recorded(torch_models.state(), dtype), torch_models.INPUT)
        assert net.dtype == dtype
        assert_close(net.predict(x), table["before"], dtype)
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), **torch_models.OPTIONS))
        losses = [trainer.step(x, torch_models.CLASSES) for _ in range(torch_models.STEPS)]
        assert_close(losses, table["losses"], dtype)
        assert_close(net.predict(x), table["after"], dtype, times=5)
        after = fo.nn.from_torch(torch_models.recorded(table, dtype), torch_models.INPUT)
        for got, want in zip(net.layers, after.layers, strict=True):
            for name, a in want.arrays().items():
                assert_close(got.arrays()[name], a, dtype, times=5)


def test_torch_still_computes_as_recorded_and_gives_the_attributes_of_the_stand_ins(torch):
    with np.load(torch_models.TABLE) as table:
        for name, a in torch_models.computed().items():
            np.testing.assert_allclose(a, table[name], rtol=1e-10, atol=1e-12)
    arguments = {"Conv2d": (1, 1, 1), "BatchNorm1d": (1,), "BatchNorm2d": (1,), "MaxPool2d": (2,), "AvgPool2d": (2,)}
    for kind, options in torch_models.DEFAULTS.items():
        module = getattr(torch.nn, kind)(*arguments.get(kind, ()))
        assert {name: getattr(module, name) for name in options} == options


def linear(n_in=3, n_out=2, dtype=np.float32, kind="Linear", **options):
    weight = Tensor(np.ones((n_out, n_in), np.float64).astype(dtype))
    return stand_in(kind, {"weight": weight}, in_features=n_in, out_features=n_out, **options)


def conv(**options):
    weight = Tensor(np.ones((2, 3, 3, 3), np.float32))
    sizes = {"in_channels": 3, "out_channels": 2, "kernel_size": (3, 3)}
    return stand_in("Conv2d", {"weight": weight}, **sizes | options)


def norm(kind="BatchNorm1d", features=3, **options):
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: Tensor(np.ones(features, np.float32)) for name in names}
    for name in options.pop("without", ()):
        del tensors[name]
    return stand_in(kind, tensors, num_features=features, **options)


IMAGE = (6, 5, 3)
REFUSED = {
    "another kind": (
        {"features": chained([linear(), stand_in("ReLU"), stand_in("LSTM")])},
        None,
        "features.2: expected one of AdaptiveAvgPool2d, .*Sequential.*, got LSTM$",
    ),
    "a module of the user": (
        [stand_in("Linear", library="mine")],
        None,
        "0: .*, got Linear; a forward cannot",
    ),
    "the logarithm of a softmax": (
        [linear(), stand_in("LogSoftmax")],
        None,
        "1: .*got LogSoftmax; leave it out, for cross_entropy takes logits",
    ),
    "whole channels dropped": ([conv(), stand_in("Dropout2d")], IMAGE, "got Dropout2d; Dropout drops single numbers"),
    "a class of its own that holds layers": (linear(kind="Net"), None, "module: expected one of .*, got Net"),
    "a parametrized weight": (
        [stand_in("Linear", {"weight_g": Tensor(np.ones(1, np.float32))})],
        None,
        "0: expected parameters weight and bias, got weight_g; remove what makes them",
    ),
    "padding of other numbers": (
        [conv(padding_mode="reflect")],
        IMAGE,
        r"0 \(Conv2d\): expected padding_mode 'zeros', got 'ref",
    ),
    "an image without a shape": ([conv()], None, r"input_shape: expected \(height, width, channels\), .*0 \(Conv2d\)"),
    "no width at all": ([stand_in("Flatten")], None, "input_shape: expected the shape of a sample"),
    "a shape channels first": ([conv()], (3, 6, 5), r"0 \(Conv2d\): expected 3 channels, the last of"),
    "a linear layer on images": ([conv(), linear(2)], IMAGE, r"1 \(Linear\): expected vectors, got images \(4, 3, 2\)"),
    "vectors normalized as images": (
        [linear(3, 3), norm("BatchNorm2d")],
        None,
        r"1 \(BatchNorm2d\): expected images, got vectors \(3,\)",
    ),
    "another width": ([linear(3, 2), linear(3, 2)], None, r"1 \(Linear\): .*expected 3 columns, got 2"),
    "batches without averages": (
        [norm(without=("running_mean", "running_var"), running_mean=None)],
        None,
        r"0 \(BatchNorm1d\): expected track_running_stats=True",
    ),
    "cumulative averages": ([norm(momentum=None)], None, r"0 \(BatchNorm1d\): momentum: expected a finite number"),
    "no eps": ([norm(eps=0.0)], None, r"0 \(BatchNorm1d\): eps: expected a finite number above 0, got 0.0"),
    "a scale without a shift": (
        [norm(without=("bias",))],
        None,
        r"0 \(BatchNorm1d\): expected weight and bias, or neit",
    ),
    "everything dropped": ([linear(), stand_in("Dropout", p=1.0)], None, r"1 \(Dropout\): rate: expected"),
    "another slope": (
        [linear(), stand_in("LeakyReLU", negative_slope=0.2)],
        None,
        r"1 \(LeakyReLU\): expected negative_slope 0.01, got 0.2",
    ),
    "gelu by tanh": (
        [linear(), stand_in("GELU", approximate="tanh")],
        None,
        r"1 \(GELU\): expected approximate 'none', got 'tanh'",
    ),
    "a softmax along another axis": (
        [conv(), stand_in("Softmax", dim=-1)],
        IMAGE,
        r"1 \(Softmax\): expected dim None or 1 or -3, got -1",
    ),
    "an activation of nothing": (
        [stand_in("ReLU")],
        (3,),
        r"0 \(ReLU\): expected it after a Linear.* got it after the input",
    ),
    "an activation of an average": (
        [conv(), stand_in("AvgPool2d", kernel_size=2), stand_in("ReLU")],
        IMAGE,
        r"2 \(ReLU\): expected it after a Linear, .*, got it after 1 \(AvgPool2d\)",
    ),
    "two activations": (
        [linear(), stand_in("ReLU"), stand_in("Tanh")],
        None,
        r"2 \(Tanh\): expected it after .*, got it after 1 \(ReLU\)",
    ),
    "an activation that does not pass": (
        [linear(), stand_in("Dropout"), stand_in("Tanh")],
        None,
        r"2 \(Tanh\): .* after 1 \(Dropout\)",
    ),
    "maxima with gaps": (
        [stand_in("MaxPool2d", kernel_size=2, dilation=2)],
        IMAGE,
        r"expected dilation 1 .*, got 2 and",
    ),
    "maxima with places": ([stand_in("MaxPool2d", kernel_size=2, return_indices=True)], IMAGE, "got 1 and True"),
    "another divisor": (
        [stand_in("AvgPool2d", kernel_size=2, divisor_override=3)],
        IMAGE,
        r"0 \(AvgPool2d\): expected divisor_override None, got 3",
    ),
    "windows of unlike size": (
        [stand_in("AdaptiveAvgPool2d", output_size=(4, None))],
        IMAGE,
        r"expected an output_size that divides the image \(6, 5\), got \(4, 5\)",
    ),
    "no windows": (
        [stand_in("AdaptiveAvgPool2d", output_size=0)],
        IMAGE,
        r"expected an output_size that divides the image \(6, 5\), got \(0, 0\)",
    ),
    "part of an image flattened": ([stand_in("Flatten", start_dim=2)], IMAGE, "expected start_dim 1 and end_dim -1"),
    "half precision": (
        [linear(dtype=np.float16)],
        None,
        "dtype: expected parameters that are all .*, got float16; pass",
    ),
    "two precisions": ([linear(), linear(2, 2, np.float64)], None, "got float32, float64; pass dtype="),
    "no numbers": (
        [stand_in("Linear", {"weight": Tensor(np.ones((2, 3), np.float32), device="meta")})],
        None,
        "module: expected tensors with numbers, got some on the meta device",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fastopt_cannot_say_is_one_error_that_names_the_module_and_its_place(case):
    modules, shape, message = REFUSED[case]
    module = chained(modules) if isinstance(modules, list | dict) else modules
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        fo.nn.from_torch(module, shape)
    assert len(str(caught.value)) < 400


def test_a_module_without_gradients_is_a_frozen_layer():
    first, second = linear(3, 3), linear(3, 2)
    first.weight.requires_grad = False
    net = fo.nn.from_torch(chained([first, second]))
    assert [layer.trainable for layer in net.layers] == [False, True]
    second = norm()
    second.weight.requires_grad = False
    with pytest.raises(
        ValueError, match=r"1 \(BatchNorm1d\): expected requires_grad of weight and bias to be the same"
    ):
        fo.nn.from_torch(chained([first, second]))


def test_frozen_layers_have_no_gradients_in_torch_and_come_back_frozen(torch):
    net = fo.nn.Sequential(
        [fo.nn.Dense(3, 4, trainable=False), fo.nn.Residual([fo.nn.BatchNorm(4, trainable=False)]), fo.nn.Dense(4, 2)],
        rng=0,
    )
    module = net.to_torch()
    assert [p.requires_grad for p in module.parameters()] == [False] * 4 + [True] * 2
    assert [layer.trainable for layer in fo.nn.from_torch(module).layers] == [False, False, True]


def test_a_shared_parameter_is_refused_by_both_its_names():
    one = linear(3, 3)
    for module in ([one, one], [one, stand_in("Linear", {"weight": one.weight}, in_features=3, out_features=3)]):
        with pytest.raises(ValueError, match=r"1.weight: expected a parameter of its own, got that of 0.weight"):
            fo.nn.from_torch(chained(module))


def test_what_is_no_module_and_what_is_no_dtype_or_shape_is_refused():
    with pytest.raises(TypeError, match="module: expected a module of torch, got list"):
        fo.nn.from_torch([linear()])
    with pytest.raises(TypeError, match="module: expected a module of torch, got type"):
        fo.nn.from_torch(type(linear()))
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got float16"):
        fo.nn.from_torch(linear(), dtype=np.float16)
    with pytest.raises(ValueError, match="module: expected tensors of real numbers, got complex ones"):
        fo.nn.from_torch(linear(dtype=np.complex64), dtype=np.float32)
    with pytest.raises(ValueError, match="input_shape: expected"):
        fo.nn.from_torch(linear(), (3, 3))


def test_numbers_that_a_narrower_dtype_does_not_hold_are_refused():
    wide = linear(dtype=np.float64)
    wide.weight = Tensor(np.full((2, 3), 1e300))
    assert fo.nn.from_torch(wide).layers[0].weight.max() == 1e300
    with pytest.raises(ValueError, match="weight: expected values that float32 holds, got larger ones"):
        fo.nn.from_torch(wide, dtype=np.float32)


def test_half_precision_converts_exactly_where_a_dtype_is_asked_for(dtype):
    net = fo.nn.from_torch(linear(dtype=np.float16), dtype=dtype)
    assert net.dtype == net.layers[0].weight.dtype == dtype
    assert (net.layers[0].weight == 1).all()


def test_one_layer_is_a_network_and_the_module_stays_as_it_is():
    module = linear(3, 2, np.float64)
    net = fo.nn.from_torch(module)
    net.layers[0].weight[...] = 7
    assert (module.weight.array == 1).all()
    assert net.input_shape == (3,)


def test_networks_come_from_torch_without_loading_it_and_go_there_not_without_it(python):
    program = """
import sys, fastopt as fo
assert "torch" not in sys.modules
sys.modules["torch"] = None  # as if it were not installed
try:
    fo.nn.Sequential([fo.nn.Dense(2, 2)]).to_torch()
except ImportError as error:
    print(error)
"""
    assert re.fullmatch(r"to_torch needs torch \(.*\); pip install torch\n", python(program))


# ---------------------------------------------------------------- every kind of layer, there and back


def mixed():
    """Layers of a small Inception with a shortcut, whose flattened branches meet a batch normalization."""
    return [
        fo.nn.Conv2d(3, 4, 3, padding="same", bias=False),
        fo.nn.BatchNorm(4, activation="relu", momentum=0.25, eps=1e-3),
        fo.nn.Concat(
            [
                [fo.nn.Conv2d(4, 3, 1, activation="silu")],
                [fo.nn.MaxPool2d(3, 1, 1), fo.nn.Conv2d(4, 2, 3, padding=1, activation="tanh")],
                [],
            ]
        ),
        fo.nn.Residual([fo.nn.Dense(9, 9, "gelu"), fo.nn.Conv2d(9, 9, 3, padding=1, groups=3)]),
        fo.nn.Concat([[fo.nn.Flatten()], [fo.nn.GlobalAvgPool2d()]]),
        fo.nn.BatchNorm(9 * 30 + 9),
        fo.nn.Dense(9 * 30 + 9, 4),
    ]


# name: layers, and the shape of a sample; every kind of layer is there
NETWORKS = {
    "Dense": lambda: ([fo.nn.Dense(5, 4, "leaky_relu"), fo.nn.Dense(4, 3, "softmax", bias=False)], (5,)),
    "Dense on images": lambda: ([fo.nn.Dense(3, 4, "sigmoid"), fo.nn.Dense(4, 2, bias=False)], IMAGE),
    "GroupedDense": lambda: ([fo.nn.GroupedDense(6, 4, 2, "relu"), fo.nn.GroupedDense(4, 2, 2, bias=False)], (6,)),
    "GroupedDense on images": lambda: ([fo.nn.GroupedDense(3, 6, 3, "gelu")], IMAGE),
    "GroupedDense after Flatten": lambda: ([fo.nn.Flatten(), fo.nn.GroupedDense(90, 6, 3)], IMAGE),
    "Maxout": lambda: ([fo.nn.Maxout(5, 4, 3), fo.nn.Maxout(4, 2, bias=False)], (5,)),
    "Maxout on images": lambda: ([fo.nn.Maxout(3, 4), fo.nn.Flatten(), fo.nn.Maxout(120, 2)], IMAGE),
    "Conv2d": lambda: (
        [fo.nn.Conv2d(3, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=3), fo.nn.Conv2d(6, 2, 2, padding="same")],
        IMAGE,
    ),
    "MaxPool2d": lambda: ([fo.nn.MaxPool2d(3, 2, 1, ceil_mode=True), fo.nn.Dense(3, 2)], IMAGE),
    "AvgPool2d": lambda: (
        [fo.nn.AvgPool2d((3, 2), 2, (1, 0), True, False), fo.nn.AvgPool2d(2, 1, 1), fo.nn.Dense(3, 2)],
        IMAGE,
    ),
    "GlobalAvgPool2d": lambda: ([fo.nn.Dense(3, 8), fo.nn.GlobalAvgPool2d(), fo.nn.Dense(8, 2)], IMAGE),
    "BatchNorm": lambda: (
        [fo.nn.BatchNorm(4, 1e-3, 0.3, "tanh"), fo.nn.Dense(4, 3), fo.nn.BatchNorm(3, affine=False)],
        (4,),
    ),
    "BatchNorm after Flatten": lambda: (
        [
            fo.nn.Conv2d(3, 4, 2),
            fo.nn.BatchNorm(4, activation="softmax"),
            fo.nn.Flatten(),
            fo.nn.BatchNorm(80, activation="relu"),
            fo.nn.Dropout(0.0),
            fo.nn.BatchNorm(80, activation="softmax"),
            fo.nn.Dense(80, 4),
        ],
        IMAGE,
    ),
    "Dropout": lambda: ([fo.nn.Dropout(0.0), fo.nn.Dense(4, 3), fo.nn.Dropout(0.0)], (4,)),
    "Flatten": lambda: ([fo.nn.Conv2d(3, 4, 2), fo.nn.Flatten()], IMAGE),
    "Flatten of one channel": lambda: ([fo.nn.Conv2d(3, 1, 2), fo.nn.Flatten(), fo.nn.BatchNorm(20)], IMAGE),
    "Flatten of a vector": lambda: ([fo.nn.Flatten(), fo.nn.Dense(4, 3)], (4,)),
    "Residual": lambda: ([fo.nn.Flatten(), fo.nn.Residual([fo.nn.Dense(90, 3, "relu"), fo.nn.Dense(3, 90)])], IMAGE),
    "Concat": lambda: (mixed(), IMAGE),
    "Add": lambda: (
        [fo.nn.Add([[fo.nn.Conv2d(3, 4, 3, 2), fo.nn.BatchNorm(4)], [fo.nn.Conv2d(3, 4, 3, 2)]]), fo.nn.Dense(4, 2)],
        IMAGE,
    ),
    "Standardize": lambda: ([fo.nn.Standardize(4), fo.nn.Dense(4, 3)], (4,)),
    "Standardize on images": lambda: ([fo.nn.Standardize(3), fo.nn.Conv2d(3, 2, 2)], IMAGE),
    "Whiten": lambda: ([fo.nn.Whiten(4, "pca", 1e-3), fo.nn.Dense(4, 3)], (4,)),
    "Whiten on images": lambda: ([fo.nn.Whiten(3), fo.nn.Conv2d(3, 2, 2)], IMAGE),
    "RandomShift": lambda: ([fo.nn.RandomShift(0, 0), fo.nn.Conv2d(3, 2, 2)], IMAGE),
    "RandomFlip": lambda: ([fo.nn.RandomFlip(False, False), fo.nn.Conv2d(3, 2, 2)], IMAGE),
    "ChannelsFirst": lambda: ([fo.nn.ChannelsFirst(), fo.nn.Conv2d(3, 2, 2)], (3, 6, 5)),
    "ChannelsFirst inside": lambda: ([fo.nn.Conv2d(3, 2, 2), fo.nn.ChannelsFirst(), fo.nn.Conv2d(5, 2, 2)], IMAGE),
}


def network(name, dtype):
    """A network of the list, with statistics of data and running averages, and samples for it."""
    layers, shape = NETWORKS[name]()
    net = fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=shape)
    rng = np.random.default_rng(1)
    for layer in walk(net.layers):
        for array, a in layer.arrays().items():
            if array in ("bias", "gamma", "beta", "running_mean"):
                a += rng.normal(0, 0.2, a.shape).astype(dtype)
            if array == "running_var":
                a *= rng.uniform(0.5, 2, a.shape).astype(dtype)
    x = rng.normal(1, 2, (12, *shape)).astype(dtype)
    return net.calibrate(x, batch_norm=False), x


def for_torch(torch, net, x):
    """Samples as the network in torch takes them."""
    turned = x.ndim == 4 and not isinstance(net.layers[0], fo.nn.ChannelsFirst)
    return torch.from_numpy(channels_first(x) if turned else x)


def from_torch_output(y):
    y = y.detach().numpy()
    return np.moveaxis(y, 1, -1) if y.ndim == 4 else y


def test_the_list_has_every_kind_of_layer():
    kinds = {type(layer).__name__ for make in NETWORKS.values() for layer in walk(make()[0])}
    assert kinds == {name for name, kind in LAYERS.items() if kind.__module__.startswith("fastopt.nn.")}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_predicts_the_same_in_torch_and_back(name, dtype, torch):
    net, x = network(name, dtype)
    module, y = net.to_torch(), net.predict(x)
    assert all(p.dtype == getattr(torch, dtype.name) for p in module.parameters())
    assert not module.training
    assert_close(from_torch_output(module(for_torch(torch, net, x))), y, dtype)
    leading = isinstance(net.layers[0], fo.nn.ChannelsFirst)
    back = fo.nn.from_torch(module, net.layers[0].output_shape(net.input_shape) if leading else net.input_shape)
    assert back.dtype == dtype
    assert_close(back.predict(np.moveaxis(x, 1, -1) if leading else x), y, dtype)
    again = back.to_torch().state_dict()
    for key, tensor in module.state_dict().items():
        assert torch.equal(again[key], tensor), key


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_descent_leads_to_the_same_parameters_and_running_averages(name, dtype, torch):
    net, x = network(name, dtype)
    if not net.parameters():
        pytest.skip("nothing is trained")
    y = np.random.default_rng(2).normal(size=(len(x), *net.output_shape)).astype(dtype)
    module = net.to_torch().train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    target = torch.from_numpy(channels_first(y) if y.ndim == 4 else y)
    for _ in range(2):
        loss = torch.nn.functional.mse_loss(module(for_torch(torch, net, x)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_close(trainer.step(x, y), loss.item(), dtype)
    ours = net.to_torch().state_dict()
    for key, tensor in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert_close(ours[key].numpy(), tensor.numpy(), dtype, times=5)


def test_inception_goes_to_torch_and_comes_back_as_it_was(torch):
    net = fo.nn.models.inception_v1(classes=7)
    rng = np.random.default_rng(3)
    for layer in walk(net.layers):
        if isinstance(layer, fo.nn.BatchNorm):
            layer.running_mean = rng.normal(0, 0.1, layer.in_features)
            layer.running_var = rng.uniform(0.01, 0.1, layer.in_features)
    x = rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
    module, y = net.to_torch(), net.predict(x)
    back = fo.nn.from_torch(module, (224, 224, 3))
    assert repr(back) == repr(net)
    np.testing.assert_array_equal(back.predict(x), y)
    with torch.no_grad():
        assert_close(module(torch.from_numpy(channels_first(x))).numpy(), y, np.float32)


def test_a_folded_network_goes_to_torch_too(torch):
    net, x = network("Concat", np.dtype(np.float64))
    folded = net.fold()
    assert len(folded.to_torch()) < len(net.to_torch())
    assert_close(folded.to_torch()(torch.from_numpy(channels_first(x))).detach().numpy(), net.predict(x), np.float64)


def test_modules_of_our_own_are_pickled_copied_and_printed(torch):
    for name in ("Concat", "GroupedDense", "Maxout", "Whiten", "RandomShift", "RandomFlip"):
        net, x = network(name, np.dtype(np.float64))
        module, given = net.to_torch(), for_torch(torch, net, x)
        for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert torch.equal(twin(given), module(given))
            assert repr(twin) == repr(module)


def test_what_torch_cannot_take_is_one_error(torch):
    class Mine(fo.nn.Dense):
        pass

    inside = fo.nn.Residual([fo.nn.Dense(3, 3), Mine(3, 3)])
    with pytest.raises(
        TypeError, match=r"layers.1.1: expected one of Add, AvgPool2d, .*Whiten, got Mine, which torch does"
    ):
        fo.nn.Sequential([fo.nn.Dense(3, 3), inside]).to_torch()
    LAYERS.pop("Mine")
    with pytest.raises(ValueError, match="Standardize"):
        fo.nn.Sequential([fo.nn.Standardize(3), fo.nn.Dense(3, 3)]).to_torch()


def test_shifts_and_flips_in_torch_are_those_of_the_layers_and_nothing_in_inference(torch):
    image = np.arange(1.0, 21.0).reshape(4, 5, 1)
    x = torch.from_numpy(channels_first(np.repeat(image[None], 400, axis=0)))
    for layer, seen in ((fo.nn.RandomShift(1, 2), 15), (fo.nn.RandomFlip(True, True), 4)):
        net = fo.nn.Sequential([layer, fo.nn.Conv2d(1, 1, 1)], input_shape=image.shape)
        module = net.to_torch()[0]
        assert torch.equal(module(x), x)
        torch.manual_seed(0)
        found = {y.numpy().tobytes() for y in module.train()(x)[:, 0]}
        zeros = np.pad(image[:, :, 0], ((1, 1), (2, 2)))
        moved = [zeros[i : i + 4, j : j + 5] for i in range(3) for j in range(5)]
        flipped = [image[::i, ::j, 0] for i in (1, -1) for j in (1, -1)]
        assert found == {a.tobytes() for a in (moved if seen == 15 else flipped)}
        assert len(found) == seen


# ---------------------------------------------------------------- modules of torch


def trained(torch, module, shape, dtype="float64"):
    """The module with random parameters and running averages, in inference mode, and samples for it."""
    torch.manual_seed(0)
    module = module.to(getattr(torch, dtype)).train()
    x = torch.randn(9, *shape, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn_like(p)
        for _ in range(3):
            module(x)
    return module.eval(), x


def ours_of(module, shape):
    """`from_torch` of a module that takes samples of this shape, channels first."""
    return fo.nn.from_torch(module, (*shape[1:], shape[0]) if len(shape) == 3 else shape, dtype=np.float64)


def assert_same(torch, module, shape):
    module, x = trained(torch, module, shape)
    net = ours_of(module, shape)
    given = np.moveaxis(x.numpy(), 1, -1) if x.ndim == 4 else x.numpy()
    assert_close(net.predict(given), from_torch_output(module(x)), np.float64)
    assert_close(from_torch_output(net.to_torch()(x)), from_torch_output(module(x)), np.float64)
    return net


def assert_trains_alike(torch, module, shape):
    """A step of descent, on both sides, from the same start."""
    module, x = trained(torch, module, shape)
    net, target = ours_of(module, shape), torch.randn_like(module(x)).detach()
    if not net.parameters():
        return
    given, y = (np.moveaxis(a.numpy(), 1, -1) if a.ndim == 4 else a.numpy() for a in (x, target))
    fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1)).step(given, y)
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.1)
    torch.nn.functional.mse_loss(module(x), target).backward()
    optimizer.step()
    for got, want in zip(net.layers, ours_of(module, shape).layers, strict=True):
        for name, a in want.arrays().items():
            assert_close(got.arrays()[name], a, np.float64, times=100)


def twice(nn, activation):
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 4), activation), (3,)


CHAINS = {
    "Linear": lambda nn: (nn.Linear(3, 2), (3,)),
    "named chains in chains": lambda nn: (
        nn.Sequential(
            nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.SiLU(inplace=True)),
            nn.Sequential(nn.Sequential(nn.BatchNorm1d(4), nn.Sigmoid()), nn.Linear(4, 2), nn.Softmax(dim=-1)),
        ),
        (3,),
    ),
    "one activation twice": lambda nn: twice(nn, nn.ReLU()),
    "softmax of channels by name": lambda nn: (nn.Sequential(nn.Conv2d(3, 4, 2), nn.Softmax2d()), (3, 5, 6)),
    "softmax over channels": lambda nn: (nn.Sequential(nn.Conv2d(3, 4, 2), nn.Softmax(dim=-3)), (3, 5, 6)),
    "relu after what lets it pass": lambda nn: (
        nn.Sequential(
            nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.MaxPool2d(2, padding=1), nn.Dropout(), nn.Flatten(), nn.ReLU()
        ),
        (3, 5, 6),
    ),
    "tanh after maxima": lambda nn: (nn.Sequential(nn.Conv2d(3, 4, 2), nn.MaxPool2d(3, 1), nn.Tanh()), (3, 5, 6)),
    "gelu after Flatten": lambda nn: (
        nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(1, 3), nn.GELU(), nn.Linear(80, 2)),
        (3, 5, 6),
    ),
    "Flatten of what comes": lambda nn: (nn.Sequential(nn.Flatten(), nn.Linear(90, 2)), (3, 5, 6)),
    "Flatten at the end": lambda nn: (nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.BatchNorm1d(80)), (3, 5, 6)),
    "Flatten of one pixel": lambda nn: (nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 2)), (3, 5, 5)),
    "the average of all": lambda nn: (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1, 3)), (3, 5, 6)),
    "the average of all as an image": lambda nn: (
        nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(0.1), nn.Conv2d(3, 2, 1), nn.Flatten()),
        (3, 5, 6),
    ),
    "averages of parts": lambda nn: (
        nn.Sequential(nn.AdaptiveAvgPool2d((2, None)), nn.AdaptiveAvgPool2d((None, 3)), nn.AdaptiveAvgPool2d((2, 3))),
        (3, 4, 6),
    ),
    "averages with padding": lambda nn: (
        nn.Sequential(
            nn.AvgPool2d((3, 2), 2, (1, 0), ceil_mode=True, count_include_pad=False), nn.AvgPool2d(2, 1, 1, True)
        ),
        (3, 6, 7),
    ),
    "convolutions": lambda nn: (
        nn.Sequential(
            nn.Conv2d(4, 8, 3, padding="same", dilation=2, groups=4),
            nn.LeakyReLU(),
            nn.Conv2d(8, 4, (2, 4), padding="same", bias=False),
            nn.BatchNorm2d(4, affine=False, momentum=1.0),
            nn.Conv2d(4, 4, (3, 2), (2, 1), (2, 1), groups=2),
            nn.Conv2d(4, 2, 2, padding="valid"),
        ),
        (4, 6, 7),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHAINS)
def test_a_module_of_torch_predicts_the_same_here_and_back_again(case, torch):
    module, shape = CHAINS[case](torch.nn)
    assert_same(torch, module, shape)


def test_a_subclass_of_sequential_that_runs_as_one_is_one_and_another_is_not(torch):
    class Block(torch.nn.Sequential):
        pass

    class Twice(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    assert len(assert_same(torch, Block(torch.nn.Linear(3, 3), Block(torch.nn.Linear(3, 2))), (3,)).layers) == 2
    with pytest.raises(TypeError, match=r"0: expected one of .*, got Twice"):
        fo.nn.from_torch(torch.nn.Sequential(Twice(torch.nn.Linear(3, 3))))


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_modules_in_half_precision_convert_exactly_where_a_dtype_is_asked_for(name, dtype, torch):
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4)).to(getattr(torch, name))
    with pytest.raises(ValueError, match=f"got {name}; pass dtype=numpy.float32"):
        fo.nn.from_torch(module)
    net = fo.nn.from_torch(module, dtype=dtype)
    np.testing.assert_array_equal(net.layers[0].weight, module[0].weight.detach().to(torch.float64).numpy())
    assert net.dtype == dtype
    assert module[0].weight.dtype == getattr(torch, name)


def test_a_parametrized_module_is_refused_until_its_weight_is_one_again(torch):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    torch.nn.utils.parametrizations.weight_norm(module[0])
    with pytest.raises(TypeError, match=r"0: expected one of .*, got ParametrizedLinear"):
        fo.nn.from_torch(module)
    torch.nn.utils.parametrize.remove_parametrizations(module[0], "weight")
    assert_same(torch, module, (3,))


@st.composite
def chains(draw):
    """Options of a chain of torch, and the shape of a sample for it: images, then Flatten, then vectors."""
    few = st.integers(1, 3)
    channels, size = draw(st.integers(1, 4)), draw(st.tuples(st.integers(5, 8), st.integers(5, 8)))
    shape, modules = (channels, *size), []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["Conv2d", "BatchNorm2d", "MaxPool2d", "AvgPool2d"]))
        if kind == "Conv2d":
            groups, after = draw(st.sampled_from([1, channels])), channels * draw(few)
            padding = draw(st.sampled_from([1, (2, 1), "same", "valid"]))
            kernel = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
            modules.append(
                (kind, (channels, after, kernel), {"padding": padding, "groups": groups, "bias": draw(st.booleans())})
            )
            channels = after
        elif kind == "BatchNorm2d":
            modules.append((kind, (channels,), {"affine": draw(st.booleans())}))
        else:
            modules.append(
                (kind, (2,), {"stride": 1, "padding": draw(st.integers(0, 1)), "ceil_mode": draw(st.booleans())})
            )
        if kind in ("Conv2d", "BatchNorm2d") and draw(st.booleans()):
            modules.append((draw(st.sampled_from(["ReLU", "Tanh", "SiLU"])), (), {}))
    modules.append(("Flatten", (), {}))
    if draw(st.booleans()):
        modules.append(("LazyBatchNorm1d", (), {}))
    if draw(st.booleans()):
        modules += [("LazyLinear", (draw(few),), {}), ("Sigmoid", (), {})]
    return modules, shape


@given(chains())
def test_chains_of_any_modules_predict_and_train_the_same_here(chain):
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    modules, shape = chain
    module = torch.nn.Sequential(*[getattr(torch.nn, kind)(*args, **options) for kind, args, options in modules])
    module(torch.zeros(2, *shape))  # the lazy ones take their sizes
    assert_same(torch, module, shape)
    assert_trains_alike(torch, module, shape)


# ---------------------------------------------------------------- what the page says of torch


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"])
def test_losses_have_the_values_of_those_that_the_page_names_beside_them(loss, torch):
    page = (Path(__file__).parents[1] / "docs" / "from_torch.md").read_text()
    line = next(line for line in page.splitlines() if f'"{loss}"' in line and "Loss()" in line)
    theirs, ours = (re.findall(pattern, line) for pattern in (r"(\w+Loss)\(\)", r'"(\w+)"'))
    criterion = getattr(torch.nn, dict(zip(ours, theirs, strict=True))[loss])()
    rng = np.random.default_rng(4)
    module, x = torch.nn.Linear(3, 4).double(), rng.normal(size=(9, 3))
    y = rng.integers(4, size=9) if loss == "cross_entropy" else rng.uniform(size=(9, 4))
    want = criterion(module(torch.from_numpy(x)), torch.from_numpy(y)).item()
    np.testing.assert_allclose(fo.nn.from_torch(module).evaluate(x, y, loss), want, rtol=1e-12)


def test_torch_starts_and_broadcasts_as_the_page_says(torch):
    for module, fan in ((torch.nn.Linear(16, 4000), 16), (torch.nn.Conv2d(4, 4000, 2), 16)):
        for p in module.parameters():
            assert 0.99 < p.abs().max().item() * np.sqrt(fan) <= 1 + 1e-6
            np.testing.assert_allclose(p.detach().numpy().std() * np.sqrt(3 * fan), 1, rtol=0.1)
    with pytest.warns(UserWarning, match="different to the input size"):
        table = torch.nn.functional.mse_loss(torch.zeros(4, 1), torch.arange(4.0), reduction="none")
    assert table.shape == (4, 4)
    with pytest.raises(RuntimeError):
        torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1], dtype=torch.int32))
    module = torch.nn.BatchNorm1d(3).train()
    module(torch.ones(2, 3))
    assert module.num_batches_tracked == 1
