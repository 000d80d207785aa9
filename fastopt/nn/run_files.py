"""The file of a run, which `Trainer.save` writes and `Trainer.resume` takes over: network, optimizer and position.

Arrays are named as in a model file (files.py) and in an optimizer's (`optim`); those of early stopping begin with
"best." or "last.". A file is checked whole, against the Trainer that is to take it over, before anything is changed.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastopt._numbers import finite_number, number_or_infinity, whole_number
from fastopt.nn import files
from fastopt.nn.early_stopping import BestEpoch
from fastopt.nn.losses import describe_loss
from fastopt.optim.state import pack_state, unpack_state

LARGEST_SEED = 2**128 - 1  # NumPy recommends seeds of 128 bits


def write_run(path, trainer, progress, seconds, left, write) -> None:
    """Write a run: a Trainer, the `progress` of its compiled training, and what an interrupt has left.

    That are the seconds that the epoch under way has taken, and the early stopping, unless None.

    `write` is that of `_files`, or of ranks that hold parts of the arrays.
    """
    arrays, state = pack_state(trainer.optimizer.state_dict(copy=False))
    arrays = {**files.stored_arrays(trainer.net), **arrays}
    document = {**_description(trainer), **progress, "optimizer": state}
    if seconds:  # a file between epochs does not depend on the time
        document["seconds"] = seconds
    if left is not None:
        names = files.arrays_of(trainer.net)
        other, values = ("best", left.arrays) if left.last is None else ("last", left.last)
        arrays |= {f"{other}.{name}": a for name, a in zip(names, values, strict=True)}
        loss = None if left.loss is None or math.isnan(left.loss) else left.loss
        document["early_stopping"] = {"loss": loss, "waited": left.waited}
    write(path, arrays, document)


def _description(trainer) -> dict:
    return {
        **files.metadata_entry(trainer.net.metadata),
        "kind": "trainer",
        **trainer.net.describe(),
        "rule": type(trainer.optimizer).__name__,
        "loss": describe_loss(trainer.loss),
        "seed": trainer.seed,
    }


class Run(NamedTuple):
    """What a run file holds, checked against a Trainer."""

    stored: dict[str, np.ndarray]  # of the layers, as in the file
    arrays: dict[str, np.ndarray]  # of the layers, in their order and dtypes
    metadata: dict
    calibrated: list[bool]  # layer by layer
    optimizer: dict[str, Any]  # its state dict
    seed: int
    progress: dict[str, float]  # of the compiled training
    seconds: float  # that the epoch under way has taken
    stopping: BestEpoch | None


def checked_run(arrays, document, trainer) -> Run:
    """A run for this Trainer; raises what says that it does not fit: any of `_files.MALFORMED`."""
    net, expected = trainer.net, _description(trainer)
    for name in ("dtype", "rule", "loss"):
        if document[name] != expected[name]:
            raise ValueError(f"expected {name} {expected[name]}, got {document[name]}")
    calibrated = _calibrated(net.layers, document["layers"])
    plain = [{k: v for k, v in config.items() if k != "calibrated"} for config in expected["layers"]]
    if document["layers"] != plain:
        raise ValueError(f"expected layers {net.layers}, got {document['layers']}")
    shape = files.input_shape_of(document, net.layers)
    if shape != net.input_shape:
        raise ValueError(f"expected input_shape {net.input_shape}, got {shape}")
    parts, mine = _by_part(arrays), files.arrays_of(net)
    stored, moments = parts.pop("layers"), parts.pop("optimizer", {})
    files.check_arrays(net, stored)
    # in the order of the layers, not of the file; statistics of an earlier version may be narrower
    theirs = {name: stored[name].astype(a.dtype, copy=False) for name, a in mine.items()}
    for name, a in mine.items():
        if not a.flags.writeable:
            raise ValueError(f"{name}: expected a writable array, got a read-only one")
    return Run(
        stored,
        theirs,
        files.as_metadata(document.get("metadata", net.metadata)),
        calibrated,
        unpack_state(moments, document["optimizer"]),
        whole_number("seed", document["seed"], 0, LARGEST_SEED),
        _progress(document),
        finite_number("seconds", document.get("seconds", 0.0), 0),
        _early_stopping(net, document, parts, theirs),
    )


def _calibrated(layers, configs) -> list[bool]:
    """Which layers of a file have their statistics; takes that out of their descriptions."""
    waits = [layer.calibration == "required" for layer in layers]  # for statistics, until it is calibrated
    found = [config.pop("calibrated", None if may else True) for may, config in zip(waits, configs, strict=True)]
    for may, known in zip(waits, found, strict=True):
        if not isinstance(known, bool) or not (known or may):
            raise ValueError(f"calibrated: expected true or false of a layer with statistics, got {known!r}")
    return found


def _by_part(arrays) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of a run file: "layers" and "optimizer" by their names, what follows "best." or "last." likewise."""
    parts: dict[str, dict[str, np.ndarray]] = {"layers": {}}
    for name, a in arrays.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest if first in ("best", "last") else name] = a
    return parts


def _progress(document) -> dict[str, float]:
    """Where a run stands, from a run file; ValueError for a number that no run can have."""
    counts = {name: whole_number(name, document[name], 0) for name in ("epoch", "position", "batches")}
    loss_sum, weight_sum = (
        _loss("loss_sum", document["loss_sum"]),
        finite_number("weight_sum", document["weight_sum"], 0),
    )
    return {**counts, "loss_sum": loss_sum, "weight_sum": weight_sum}


def _loss(name, value) -> float:
    """A loss in a file: finite, or infinity, which a batch may have."""
    return number_or_infinity(name, value, above=-math.inf)


def _early_stopping(net, document, parts, shown) -> BestEpoch | None:
    """The early stopping of a run file, if it has one; ValueError where its arrays or numbers do not fit.

    `shown` are the arrays of the network: where the file holds those of the last step, they are the best epoch's.
    """
    entry = document.get("early_stopping")
    if (entry is None) != (not parts) or len(parts) > 1 or not parts.keys() <= {"best", "last"}:
        raise ValueError(f"expected arrays of layers, optimizer and early stopping, got {sorted(parts)} besides")
    if entry is None:
        return None
    ((part, arrays),) = parts.items()
    files.check_arrays(net, arrays)
    arrays = {name: arrays[name].astype(a.dtype, copy=False) for name, a in shown.items()}
    loss = math.nan if entry["loss"] is None else _loss("early_stopping.loss", entry["loss"])
    waited = whole_number("early_stopping.waited", entry["waited"], 0)
    theirs, present = list(arrays.values()), list(shown.values())
    best, last = (theirs, None) if part == "best" else (present, theirs)
    return BestEpoch(loss, waited, best, last)
