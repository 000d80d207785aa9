"""Types of the compiled core, whatever the level; `tests/test_stubs.py` compares them with the module.

`_Array` is one dtype throughout a call: kernels convert no floating array that is given to them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array = TypeVar("_Array", NDArray[np.float32], NDArray[np.float64])
_Pair: TypeAlias = int | tuple[int, int]
_Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

# --- the numbers of the processor, see processors.py

def set_tuning(numbers: dict[str, int]) -> None: ...
def get_tuning() -> dict[str, int]: ...

# --- threads, and those of BLAS

MAX_THREADS: int

def get_thread_count() -> int: ...
def set_common_thread_count(n: int) -> None: ...
def smallest_team() -> int: ...
def has_openmp() -> bool: ...
def thread_limit() -> int: ...
def places() -> list[frozenset[int]]: ...
def add_blas(get: int, set: int, own: bool) -> None: ...

class OwnThreadCount:
    def __init__(self, n: int) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    @property
    def n(self) -> int: ...

class OneBlasThread:
    def __init__(self, find: Callable[[], object]) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

# --- activations

ACTIVATIONS: tuple[str, ...]

def activation(x: _Array, name: str, out: _Array | None = ...) -> _Array: ...
def exp(x: _Array, out: _Array | None = ...) -> _Array: ...

# --- layers

def conv2d(
    x: _Array,
    weight: _Array,
    bias: _Array | None = ...,
    stride: int | tuple[int, int] = ...,
    padding: int | tuple[int, int] | str = ...,
    dilation: int | tuple[int, int] = ...,
    groups: int = ...,
    activation: str = ...,
    out: _Array | None = ...,
    z: _Array | None = ...,
) -> _Array: ...
def conv2d_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    z: _Array | None = ...,
    stride: int | tuple[int, int] = ...,
    padding: int | tuple[int, int] | str = ...,
    dilation: int | tuple[int, int] = ...,
    groups: int = ...,
    activation: str = ...,
    dx: _Array | None = ...,
    dw: _Array | None = ...,
    db: _Array | None = ...,
    *,
    y: _Array | None = ...,
) -> _Array: ...
def dense(
    x: _Array,
    weight: _Array,
    bias: _Array | None = ...,
    activation: str = ...,
    out: _Array | None = ...,
    z: _Array | None = ...,
) -> _Array: ...
def dense_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    z: _Array | None = ...,
    activation: str = ...,
    dx: _Array | None = ...,
    dw: _Array | None = ...,
    db: _Array | None = ...,
    *,
    y: _Array | None = ...,
) -> _Array: ...
def grouped_dense(
    x: _Array,
    weight: _Array,
    bias: _Array | None = ...,
    groups: int = ...,
    activation: str = ...,
    out: _Array | None = ...,
    z: _Array | None = ...,
) -> _Array: ...
def grouped_dense_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    z: _Array | None = ...,
    groups: int = ...,
    activation: str = ...,
    dx: _Array | None = ...,
    dw: _Array | None = ...,
    db: _Array | None = ...,
    *,
    y: _Array | None = ...,
) -> _Array: ...
def maxout(x: _Array, pieces: int = ..., out: _Array | None = ...) -> _Array: ...
def maxout_backward(dy: _Array, x: _Array, pieces: int = ..., dx: _Array | None = ...) -> _Array: ...
def conv2d_padding(
    padding: tuple[int, int] | str, kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], ...]: ...
def is_depthwise(channels: tuple[int, int, int]) -> bool: ...
def conv2d_geometry(
    image: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[tuple[int, int], ...],
    channels: tuple[int, int, int],
) -> tuple[tuple[int, ...], tuple[int, ...]]: ...
def pool2d_shape(
    height: int, width: int, kernel_size: _Pair, stride: _Pair | None, padding: _Pair, ceil_mode: bool
) -> tuple[int, int]: ...
def max_pool2d(
    x: _Array,
    kernel_size: _Pair,
    stride: _Pair | None = ...,
    padding: _Pair = ...,
    ceil_mode: bool = ...,
    out: _Array | None = ...,
) -> _Array: ...
def max_pool2d_backward(
    dy: _Array,
    x: _Array,
    kernel_size: _Pair,
    stride: _Pair | None = ...,
    padding: _Pair = ...,
    ceil_mode: bool = ...,
    dx: _Array | None = ...,
) -> _Array: ...
def avg_pool2d(
    x: _Array,
    kernel_size: _Pair,
    stride: _Pair | None = ...,
    padding: _Pair = ...,
    ceil_mode: bool = ...,
    count_include_pad: bool = ...,
    out: _Array | None = ...,
) -> _Array: ...
def avg_pool2d_backward(
    dy: _Array,
    input_shape: Sequence[int],
    kernel_size: _Pair,
    stride: _Pair | None = ...,
    padding: _Pair = ...,
    ceil_mode: bool = ...,
    count_include_pad: bool = ...,
    dx: _Array | None = ...,
) -> _Array: ...
def standardize(x: _Array, mean: _Array, scale: _Array, out: _Array | None = ...) -> _Array: ...
def batch_statistics(x: _Array, correction: int = ...) -> tuple[_Array, _Array]: ...
def batch_norm(
    x: _Array,
    gamma: _Array | None = ...,
    beta: _Array | None = ...,
    eps: float = ...,
    out: _Array | None = ...,
    *,
    activation: str = ...,
    z: _Array | None = ...,
) -> tuple[_Array, _Array, _Array]: ...
def batch_norm_inference(
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    mean: _Array,
    var: _Array,
    eps: float = ...,
    out: _Array | None = ...,
    *,
    activation: str = ...,
) -> _Array: ...
def batch_norm_backward(
    dy: _Array,
    x: _Array,
    gamma: _Array | None,
    mean: _Array,
    var: _Array,
    eps: float = ...,
    dx: _Array | None = ...,
    dgamma: _Array | None = ...,
    dbeta: _Array | None = ...,
    *,
    activation: str = ...,
    z: _Array | None = ...,
    y: _Array | None = ...,
) -> tuple[_Array, _Array, _Array]: ...
def drop_rate(rate: float) -> float: ...
def dropout(x: _Array, rate: float, seed: int, step: int = ..., out: _Array | None = ...) -> _Array: ...
def dropout_backward(dy: _Array, rate: float, seed: int, step: int = ..., dx: _Array | None = ...) -> _Array: ...

# --- losses

LOSSES: tuple[str, ...]
IGNORE_INDEX: int

def cross_entropy(
    logits: _Array,
    targets: ArrayLike,
    grad: _Array | None = ...,
    *,
    sample_weight: ArrayLike | None = ...,
    class_weight: ArrayLike | None = ...,
    label_smoothing: float = ...,
    ignore_index: int = ...,
) -> tuple[float, _Array]: ...
def binary_cross_entropy(
    logits: _Array, targets: ArrayLike, grad: _Array | None = ..., *, sample_weight: ArrayLike | None = ...
) -> tuple[float, _Array]: ...
def mse(
    prediction: _Array, targets: ArrayLike, grad: _Array | None = ..., *, sample_weight: ArrayLike | None = ...
) -> tuple[float, _Array]: ...
def mae(
    prediction: _Array, targets: ArrayLike, grad: _Array | None = ..., *, sample_weight: ArrayLike | None = ...
) -> tuple[float, _Array]: ...
def huber(
    prediction: _Array,
    targets: ArrayLike,
    grad: _Array | None = ...,
    *,
    delta: float = ...,
    sample_weight: ArrayLike | None = ...,
) -> tuple[float, _Array]: ...

# --- gradients and their updates

RULES: tuple[str, ...]
FORMULAS: tuple[str, ...]
NUMBERS: tuple[str, ...]

def clip_grad_norm_(grads: Iterable[_Floats | None], max_norm: float, *, error_if_nonfinite: bool = ...) -> float: ...
def clip_grad_value_(grads: Iterable[_Floats | None], value: float) -> None: ...
def copy_arrays(targets: list[NDArray[Any]], sources: list[NDArray[Any]]) -> None: ...
def finish_step(
    update: Update,
    targets: list[NDArray[Any]],
    sources: list[NDArray[Any]],
    counts: list[tuple[int, int]],
    training: Training | None = ...,
    loss: float = ...,
    in_epoch: bool = ...,
    moves: bool = ...,
) -> None: ...

class Gradients:
    def __init__(self, grads: Iterable[_Floats | None]) -> None: ...

class Update:
    def __init__(
        self,
        convert: Callable[[str, Any], NDArray[Any]],
        check_finite: Literal["raise", "skip"] | None,
        max_norm: float | None,
        clip_value: float | None,
        accumulate: int,
        ema_decay: float,
    ) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    def add_group(self, params: list[tuple[str, NDArray[Any]]]) -> None: ...
    def settled(self, groups: list[dict[str, Any]]) -> bool: ...
    def set_options(
        self,
        group: int,
        rule: str,
        formula: str,
        numbers: dict[str, float],
        interim: bool,
        lr_in_velocity: bool,
        maximize: bool,
        eps_inside_sqrt: bool,
        decoupled_weight_decay: bool,
        seen: tuple[Any, ...] | None,
    ) -> None: ...
    def set_table(self, columns: list[tuple[int, str, NDArray[Any]]]) -> None: ...
    def set_arrays(
        self,
        i: int,
        moments: tuple[NDArray[Any] | None, ...],
        ema: NDArray[Any] | None = ...,
        sum: NDArray[Any] | None = ...,
        home: NDArray[Any] | None = ...,
    ) -> None: ...
    def get_counts(self, i: int) -> tuple[int, bool, float, bool]: ...
    def set_counts(self, i: int, count: int, started: bool, product: float, summed: bool) -> None: ...
    def bind(self, grads: Iterable[Any]) -> None: ...
    def require_in_place(self) -> int: ...
    def require_idle(self) -> None: ...
    def step(self, grads: Iterable[Any] | None = ...) -> None: ...
    updates: int
    accumulated: int
    @property
    def skipped(self) -> int: ...
    @property
    def norm(self) -> float: ...

class SwappedParams:
    def __init__(self, optimizer: Any, update: Update, *, averages: bool) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> None: ...

# --- networks

class PackedWeight:
    def __init__(self, weight: NDArray[Any], groups: int = ...) -> None: ...
    def __repr__(self, /) -> str: ...
    def unpacked(self) -> NDArray[Any]: ...
    @property
    def typenum(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def groups(self) -> int: ...

class Arrays:
    def __init__(self, typenum: int, fixed: bool) -> None: ...

class Program:
    def __init__(
        self,
        values: list[dict[str, Any]],
        entries: list[dict[str, Any]],
        typenum: int,
        fixed: bool = ...,
        input_gradient: bool = ...,
    ) -> None: ...
    def rows(self, x: ArrayLike, name: str = ...) -> NDArray[Any]: ...
    def predict(self, x: ArrayLike, out: NDArray[Any] | None = ...) -> NDArray[Any]: ...
    def new_grads(self) -> list[NDArray[Any]]: ...
    @property
    def starts(self) -> list[int]: ...
    @property
    def exchanges(self) -> list[tuple[int, Any]]: ...
    @property
    def typenum(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_out(self) -> int: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def least_rows(self) -> int: ...

class Scratch:
    def __init__(self, size: int) -> None: ...

class Workspace:
    def __init__(self, program: Program, capacity: int, training: bool, tangents: bool = ...) -> None: ...
    @property
    def capacity(self) -> int: ...
    @property
    def saved_bytes(self) -> int: ...

class Training:
    def __init__(
        self,
        program: Program,
        loss: str | None,
        update: Update | None,
        max_batch: int,
        *,
        delta: float = ...,
        label_smoothing: float = ...,
        class_weight: ArrayLike | None = ...,
        ignore_index: int = ...,
    ) -> None: ...
    def check(
        self, x: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = ...
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]: ...
    def check_batch(
        self, x: ArrayLike, targets: ArrayLike | None, sample_weight: ArrayLike | None = ...
    ) -> tuple[NDArray[Any], Any, NDArray[Any] | None]: ...
    def step(
        self, x: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = ..., in_epoch: bool = ...
    ) -> float: ...
    def hvp(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        v: Iterable[ArrayLike],
        sample_weight: ArrayLike | None = ...,
        *,
        gauss_newton: bool = ...,
        again: bool = ...,
    ) -> list[NDArray[Any]]: ...
    def finish(self) -> None: ...
    def run(
        self,
        x: NDArray[Any],
        targets: NDArray[Any],
        sample_weight: NDArray[Any] | None,
        order: NDArray[Any],
        sizes: ArrayLike,
        seconds: float,
    ) -> None: ...
    def end_epoch(self) -> None: ...
    def require_in_place(self) -> int: ...
    epoch: int
    position: int
    batches: int
    loss_sum: float
    weight_sum: float
    @property
    def program(self) -> Program: ...
    @property
    def gradient(self) -> np.ndarray: ...
    def hold_gradient(self, gradient: NDArray[Any]) -> None: ...
    @property
    def grads(self) -> list[NDArray[Any] | None]: ...
    @property
    def batch_weight(self) -> float: ...
    @property
    def max_batch(self) -> int: ...
    @property
    def saved_bytes(self) -> int: ...

class Parts:
    def __init__(self, of: Program | Training) -> None: ...
    def values(self, entry: int) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def gradients(self, entry: int) -> tuple[Any, Any]: ...  # arrays, or None
    def input_gradient(self) -> Any: ...  # likewise
    @property
    def program(self) -> Program: ...
    @property
    def rows(self) -> int: ...

class PartedPass(Parts):
    def __init__(self, of: Program) -> None: ...
    def start(self, x: NDArray[Any], out: NDArray[Any]) -> None: ...
    def forward(self, first: int, stop: int, row: int = ..., rows: int | None = ...) -> None: ...

class PartedStep(Parts):
    def __init__(self, training: Training) -> None: ...
    def start(
        self,
        x: NDArray[Any],
        targets: NDArray[Any] | None,
        weights: NDArray[Any] | None,
        rows: int,
        step: int,
        order: NDArray[Any] | None = ...,
        position: int = ...,
    ) -> None: ...
    def pause(self) -> None: ...
    def forward(
        self, first: int = ..., stop: int | None = ..., row: int = ..., rows: int | None = ...
    ) -> tuple[float, float]: ...
    def backward(
        self, first: int, stop: int, row: int = ..., rows: int | None = ..., penalties: bool = ...
    ) -> None: ...
    def share_sums(self) -> dict[int, NDArray[Any]]: ...
    def forward_sums(self, entry: int) -> NDArray[Any]: ...
    def backward_sums(self, entry: int) -> NDArray[Any]: ...
    def squares(self, gradients: Iterable[int]) -> float: ...
    def update(self, share: float, squares: float | None = ..., bad: bool = ...) -> bool: ...
    def finish(self, rows: int, loss: float, weight: float) -> None: ...
    def give_up(self) -> None: ...
    def require_defined(self, losses: Iterable[float]) -> None: ...
    def count(self, losses: Iterable[float], weights: Iterable[float]) -> None: ...
    @property
    def training(self) -> Training: ...
    @property
    def looks(self) -> bool: ...

# --- generalized linear models

FAMILIES: tuple[str, ...]

class GlmData:
    def __init__(
        self,
        family: str,
        X: _Floats,
        y: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
        k: int,
        intercept: bool,
        center: NDArray[np.float64] | None = ...,
        offset: NDArray[np.float64] | None = ...,
        parameter: float = ...,
        entries: tuple[NDArray[np.int32], NDArray[np.float64] | None, NDArray[np.int64] | None, int] | None = ...,
    ) -> None: ...
    def value(
        self, theta: NDArray[np.float64], grad: NDArray[np.float64], hessian: _Floats | None = ..., step: int = ...
    ) -> float: ...
    def product(self, v: NDArray[np.float64], out: NDArray[np.float64]) -> NDArray[np.float64]: ...
    def hessian(self, out: _Array) -> _Array: ...

# --- yardsticks of the machine

def fma_rate() -> float: ...
def read_rate(x: NDArray[np.float32], repeats: int) -> float: ...
def sum_parts(parts: list[NDArray[Any]], factors: list[float], outs: list[NDArray[Any]]) -> None: ...
def plain_pass(grad: NDArray[np.float32], arrays: list[NDArray[np.float32]]) -> None: ...
