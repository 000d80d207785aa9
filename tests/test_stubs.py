"""What type checkers read about the compiled modules is what the modules have.

Pass criterion: the same names both ways; of a function or method the same parameters, in order, of the same kinds, with
defaults where the module has them; of a class the same members; of a constant or attribute the same type.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt as fo
from fastopt import _kernels
from fastopt._kernels import _cpu, core

INSTALLED = Path(_kernels.__file__).parent
SOURCES = Path(__file__).parents[1] / "fastopt" / "_kernels"
CORE, CPU = (INSTALLED / "core.pyi").read_text(), (INSTALLED / "_cpu.pyi").read_text()
# what a compiled class has besides its members; what its constructor takes, the sources say
OF_CYTHON = {"__new__", "__init__", "__doc__", "__reduce__", "__setstate__", "__pyx_vtable__"}
OF_CYTHON |= {"__reduce_cython__", "__setstate_cython__"}


# ---------------------------------------------------------------- both sides, as {dotted name: what it is}


def parameters(function) -> list[tuple[str, str, bool]]:
    """(name, kind, whether there is a default) of every parameter of a parsed function."""
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [False] * (len(plain) - len(a.defaults)) + [True] * len(a.defaults)
    kinds = ["POSITIONAL_ONLY"] * len(a.posonlyargs) + ["POSITIONAL_OR_KEYWORD"] * len(a.args)
    found = [(arg.arg, kind, given) for arg, kind, given in zip(plain, kinds, defaults, strict=True)]
    found += [(arg.arg, "VAR_POSITIONAL", False) for arg in filter(None, [a.vararg])]
    found += [
        (arg.arg, "KEYWORD_ONLY", given is not None) for arg, given in zip(a.kwonlyargs, a.kw_defaults, strict=True)
    ]
    return found + [(arg.arg, "VAR_KEYWORD", False) for arg in filter(None, [a.kwarg])]


def stub(text) -> dict:
    return dict(described(ast.parse(text).body))


def described(body, prefix=""):
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name, "class"
            yield from described(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
            yield prefix + node.name, "attribute" if is_property else parameters(node)
        elif isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            yield prefix + node.target.id, "attribute" if prefix else type_named(node.annotation)


def type_named(annotation) -> str:
    return ast.unparse(annotation).partition("[")[0].rpartition(".")[2]


def module(names) -> dict:
    """The same of the names of a compiled module, without those that it has imported."""
    found = {}
    for key, value in names.items():
        own = getattr(value, "__module__", _kernels.__name__).startswith(_kernels.__name__)  # constants have no module
        if key.startswith("_") or inspect.ismodule(value) or not own:
            continue
        if inspect.isclass(value):
            found[key] = "class"
            found[f"{key}.__init__"] = constructor(key)
            found |= {f"{key}.{m}": of_value(v) for m, v in vars(value).items() if m not in OF_CYTHON}
        else:
            found[key] = of_value(value)
    return found


def of_value(value):
    if inspect.isgetsetdescriptor(value):
        return "attribute"
    if not callable(value):
        return type(value).__name__
    return [(p.name, p.kind.name, p.default is not p.empty) for p in inspect.signature(value).parameters.values()]


def constructor(name) -> list[tuple[str, str, bool]]:
    """What the sources say that a compiled class is made with: the class itself does not tell."""
    form = rf"^cdef class {name}\b[^\n]*:\n(?:(?!\n\S).)*?def __c?init__\((.*?)\):\n"
    (text,) = [m[1] for path in SOURCES.rglob("*.pxi") for m in re.finditer(form, path.read_text(), re.M | re.S)]
    untyped = re.sub(r"\b\w+ (?=\w)", "", " ".join(text.split()))  # "int n, bint fixed=False": "n, fixed=False"
    return parameters(ast.parse(f"def __init__({untyped}): ...").body[0])


def differences(ours, theirs) -> list[str]:
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


# ---------------------------------------------------------------- the comparison, and that it sees


@pytest.mark.parametrize(("text", "compiled"), [(CORE, core), (CPU, _cpu)], ids=["core", "_cpu"])
def test_the_stubs_have_the_names_parameters_and_members_of_the_module(text, compiled):
    assert differences(stub(text), module(vars(compiled))) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("activation", "activation(x: _Array, name: str,", "activation(x: _Array, name: str, slope: float,"),
        ("activation", "activation(x: _Array, name: str,", "activation(x: _Array,"),
        ("activation", "activation(x: _Array, name: str,", "activation(x: _Array, kind: str,"),
        ("activation", "activation(x: _Array, name: str,", "activation(name: str, x: _Array,"),
        (
            "standardize",
            "mean: _Array, scale: _Array, out: _Array | None = ...",
            "mean: _Array, scale: _Array, out: _Array",
        ),
        ("clip_grad_norm_", "max_norm: float, *,", "max_norm: float,"),
        ("exp", "def exp(x: _Array, out: _Array | None = ...) -> _Array: ...\n", ""),
        ("sinh", "def exp(", "def sinh(x: _Array) -> _Array: ...\ndef exp("),
        ("MAX_THREADS", "MAX_THREADS: int", "MAX_THREADS: str"),
        ("Training.finish", "    def finish(self) -> None: ...\n", ""),
        ("Training.finish", "def finish(self)", "def finish(self, rows: int)"),
        ("Training.position", "    position: int\n", ""),
        ("Workspace.__init__", "training: bool, tangents: bool = ...", "training: bool"),
        ("OwnThreadCount.__exit__", "def __exit__(self, *error: object)", "def __exit__(self, error: object)"),
    ],
)
def test_stubs_that_say_something_else_are_found(name, old, new):
    assert old in CORE
    assert differences(stub(CORE.replace(old, new, 1)), module(vars(core))) == [name]


def test_parameters_that_the_module_gains_are_found():
    def exp(x, out=None, precise=False):
        pass

    exp.__module__ = core.exp.__module__
    assert differences(stub(CORE), module(vars(core) | {"exp": exp})) == ["exp"]


def instances() -> list:
    """One of every class that has attributes."""
    net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    update = fo.optim.SGD(net.parameters(), lr=0.1).compiled_update
    training = net.bind("mse", update)
    made = core.Workspace(training.program, 1, True), core.OwnThreadCount(1), core.PackedWeight(net.layers[0].weight)
    return [training, training.program, update, core.Parts(training), core.PartedStep(training), *made]


def test_attributes_have_the_type_of_the_stubs_and_are_read_only_where_these_say_so():
    classes = {node.name: node.body for node in ast.parse(CORE).body if isinstance(node, ast.ClassDef)}
    checked = set()
    for instance in instances():
        name = type(instance).__name__
        for node in classes[name]:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                value = getattr(instance, node.name)
                assert type(value).__name__ == type_named(node.returns), node.name
                with pytest.raises(AttributeError):
                    setattr(instance, node.name, value)
                checked.add(f"{name}.{node.name}")
            elif isinstance(node, ast.AnnAssign):
                value = getattr(instance, node.target.id)
                assert type(value).__name__ == type_named(node.annotation), node.target.id
                setattr(instance, node.target.id, value)
                checked.add(f"{name}.{node.target.id}")
    assert checked == {name for name, what in stub(CORE).items() if what == "attribute"}


# ---------------------------------------------------------------- what a user's type checker finds

RIGHT = """
import numpy as np
from numpy.typing import NDArray
import fastopt as fo
from fastopt import functional as F

x, w, d = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32), np.zeros((2, 3))
y: NDArray[np.float32] = F.dense(x, w, None, "relu")
y = fo.functional.dense(x, w, out=y)
z: NDArray[np.float64] = F.exp(d)
loss, grad = F.cross_entropy(d, [1, 0], label_smoothing=0.1)
total: float = loss + F.clip_grad_norm_([x, None, d], 1.0)
y, mean, var = F.batch_norm(x, activation="relu")
with fo.num_threads(1):
    y = F.maxout(x, pieces=3)
z = F.avg_pool2d_backward(d.reshape(1, 1, 2, 3), (1, 1, 2, 3), (1, 1), padding=0)
"""
WRONG = [
    "fo.functional.dense(1, 2)",
    "F.dense(x)",
    "F.max_pool2d(d.reshape(1, 1, 2, 3))",
    "F.dense(x, d)  # dtypes that differ",
    "F.dense(x, w, 'relu')",
    "F.dense(x, w, nothing=1)",
    "F.dense(x.astype(np.int64), w.astype(np.int64))",
    "F.huber(x, x, None, 2.0)  # delta is keyword-only",
    "y = F.exp(d)",
    "grad = F.cross_entropy(d, [1, 0])",
]


def test_a_type_checker_finds_wrong_calls_of_functional_and_passes_right_ones(tmp_path):
    pytest.importorskip("mypy", reason="mypy comes with the lint extra")
    (tmp_path / "fastopt").symlink_to(INSTALLED.parent)
    (tmp_path / "user.py").write_text(RIGHT + "\n".join(WRONG))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = {int(line) for line in re.findall(r"^user\.py:(\d+): error", done.stdout, re.M)}
    first = RIGHT.count("\n") + 1
    assert refused == set(range(first, first + len(WRONG))), done.stdout + done.stderr
