"""What all optimizers share: parameter groups, moments, one compiled step, state.

- A rule (`rules`) is its signature, which is the table of its defaults, and the formula its
  options choose. The arithmetic is a kernel.
- `step` compares the objects in `param_groups` with those it saw last; only if one is another,
  options are checked and sent to the kernel (`_send_options`).
- A schedule in place of a number is evaluated ahead, hundreds of updates at a time, into a table
  from which the kernel takes its options, also inside a Trainer's run.
- A Trainer touches what stands under "what a Trainer calls", and nothing else.
- What a state dict may hold, and its forms in a file and in torch: `state.py`.
"""

import contextlib
import inspect

import numpy as np

from fastopt import _files
from fastopt._arrays import aligned_zeros, as_array
from fastopt._kernels import core
from fastopt.optim import options as opt
from fastopt.optim import state as states
from fastopt.schedules import Schedule

FLAGS = ("lr_in_velocity", "maximize", "eps_inside_sqrt")


class Optimizer:
    """Base of the optimizers; construct one of its subclasses.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, C-contiguous, updated in place: NumPy arrays, objects with a writable buffer,
        or CPU DLPack exports such as ``tensor.detach()`` of torch. Or groups ``{"params": [...], "lr": ...}``.
    options : dict
        Of the rule, for groups that do not bring their own.
    max_norm : float, optional
        Before the update all gradients together are scaled by ``min(1, max_norm / (norm + 1e-6))``, as
        ``torch.nn.utils.clip_grad_norm_`` does; the gradient arrays are not written.
    clip_value : float, optional
        Before the update every element of a gradient is brought into ``[-clip_value, clip_value]``.
    check_finite : {None, "raise", "skip"}
        Look for NaN and infinity in the gradients before anything is changed, and raise FloatingPointError,
        or leave the step out.
    accumulate : int
        Update at every k-th step only, with the mean of k gradients.
    ema_decay : float, optional
        Keep an exponential moving average of each parameter over its updates; see `averaged`.

    Attributes
    ----------
    param_groups : list of dict
        Options of each group, and its arrays under "params"; options may be changed between steps, and any
        number may be a schedule of `fastopt.schedules`.
    defaults : dict
        Options of a group that brings none.
    """

    defaults: dict = {}
    _rule: str
    _rules: list[type["Optimizer"]] = []  # every subclass that has a kernel
    __signature__: inspect.Signature  # what help() shows
    moments: tuple[str, ...] = ()  # arrays that a `PythonRule` keeps for each parameter
    positional: frozenset[str]  # its options before the keyword-only ones: those that torch has always had

    def __init_subclass__(cls):
        own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [p for p in inspect.signature(Optimizer.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
        cls.defaults = {p.name: p.default for p in own if p.default is not p.empty}
        cls.positional = frozenset(p.name for p in own if p.name in cls.defaults and p.kind is not p.KEYWORD_ONLY)
        if hasattr(cls, "_rule"):
            Optimizer._rules.append(cls)
        takes_shared = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls.__init__).parameters.values())
        cls.__signature__ = inspect.Signature([*own[1:], *(shared if takes_shared else ())])

    def __init__(
        self, params, options, *, max_norm=None, clip_value=None, check_finite=None, accumulate=1, ema_decay=None
    ):
        self._shared = shared = opt.checked_shared(max_norm, clip_value, check_finite, accumulate, ema_decay)
        params = opt.listed(params)
        self.defaults = {name: options[name] for name in type(self).defaults}
        self.param_groups: list[dict] = []
        self._ema_decay, self._skipped = shared["ema_decay"], 0  # steps skipped before this `_update`
        self._arrays: list[np.ndarray] = []
        self._states: list[dict[str, np.ndarray]] = []
        self._kept: list[tuple | None] = []  # per parameter: names of the arrays the kernel points to
        self._members: list[list] = []  # per group: the parameters it was made with
        self._watched: list[tuple] = []  # schedules that listen to measurements, and their values as sent
        limits = (shared["check_finite"], shared["max_norm"], shared["clip_value"])
        self._update = core.Update(as_array, *limits, shared["accumulate"], self._ema_decay or 0.0)
        for group in params if isinstance(params[0], dict) else [{"params": params}]:
            self.add_param_group(group)

    def add_param_group(self, group) -> None:
        """Take in more parameters.

        Parameters
        ----------
        group : dict
            ``{"params": [...]}`` and the options that differ from the defaults. Gradients of its arrays
            come after those of the groups before.

        Raises
        ------
        TypeError, ValueError
            An array that cannot be updated in place, or that the optimizer has already; nothing has been
            changed then.
        """
        params = opt.params_of(group, type(self).__name__, self.defaults)
        first = len(self._arrays)
        names = [f"params[{first + k}]" for k in range(len(params))]
        arrays = [as_array(name, a) for name, a in zip(names, params, strict=True)]
        merged = {**self.defaults, **group, "params": params}
        opt.table_of(
            [self._checked(merged)], self.steps + 1
        )  # an option out of range raises here, before anything changes
        self._update.add_group(list(zip(names, arrays, strict=True)))
        self.param_groups.append(merged)
        self._members.append(list(params))
        self._arrays += arrays
        self._states += [{} for _ in arrays]
        self._kept += [None] * len(arrays)
        self._send_options()

    # --- options on their way to the kernel

    def _formula(self, group) -> tuple[str, tuple[str | None, ...]]:
        """The kernel's formula for these options, and the names of its moments by slot; ValueError if none fits."""
        raise TypeError(
            f"{type(self).__name__}: expected a rule that has a kernel, got a subclass of Optimizer without one; start "
            "from a rule of fastopt.optim, or from optim.PythonRule, whose rule is a method in Python"
        )

    def _decoupled(self, group) -> bool:
        """Whether weight decay shrinks the parameter instead of joining the gradient."""
        return bool(group.get("decoupled_weight_decay", False))

    def _checked(self, group) -> dict:
        """The numbers of a group by the kernel's names; ValueError for options that do not fit."""
        opt.require_options(group, type(self).defaults)
        numbers = opt.numbers_of({name: group[name] for name in self.defaults})
        self._formula(group)
        return numbers

    def _send_options(self) -> None:
        groups = self.param_groups
        self._update.require_idle()
        self._require_members()
        numbers = [self._checked(group) for group in groups]
        table = opt.table_of(numbers, self.steps + 1)
        first = 0
        for i, (group, values) in enumerate(zip(groups, numbers, strict=True)):
            formula, moments = self._formula(group)
            options = {name: group[name] for name in self.defaults}
            nesterov = options.get("nesterov", False)
            fixed = {name: v for name, v in values.items() if name in core.NUMBERS and not isinstance(v, Schedule)}
            flags = {name: bool(options.get(name, False)) for name in FLAGS}
            last = first + len(group["params"])
            self._keep(range(first, last), group, moments, nesterov == "interim")
            self._update.set_options(
                i,
                self._rule,
                formula,
                fixed,
                nesterov == "interim",
                decoupled_weight_decay=self._decoupled(options),
                seen=opt.seen(group),
                **flags,
            )
            first = last
        self._update.set_table(table)
        self._watched = [(p, p.present) for group in groups for p in opt.plateaus(group)]

    def _require_members(self) -> None:
        """Raise ValueError unless each group holds the parameters it was made with."""
        found = [[id(a) for a in group["params"]] for group in self.param_groups]
        if found != [[id(a) for a in members] for members in self._members]:
            raise ValueError(
                "param_groups: expected each group with the parameters it was made with; use add_param_group for more"
            )

    def _keep(self, parameters, group, moments, interim) -> None:
        """Allocate the arrays that these parameters lack, and point the kernel to all they need."""
        extra = ["ema"] * (self._ema_decay is not None) + ["accumulated"] * (self.accumulate > 1) + ["home"] * interim
        wanted = (*moments, *extra)
        for k in parameters:
            if self._kept[k] == wanted:
                continue
            state = self._states[k]
            for name in filter(None, wanted):
                if name not in state:
                    state[name] = self._new_array(k, name, group)
            arrays = tuple(state.get(name) for name in moments)
            self._update.set_arrays(
                k, arrays, *(state[name] if name in extra else None for name in ("ema", "accumulated", "home"))
            )
            self._kept[k] = wanted

    def _new_array(self, k, name, group) -> np.ndarray:
        return aligned_zeros(self._arrays[k].shape, self._arrays[k].dtype, like=self._arrays[k])

    # --- steps

    def bind(self, grads) -> None:
        """Check gradients once; later calls of ``step()`` use the same arrays.

        Parameters
        ----------
        grads : iterable of arrays or None
            In the order of the parameters, of their shape and dtype; None skips one.

        Raises
        ------
        TypeError, ValueError
            An array that does not fit its parameter; nothing has been changed then.
        """
        self._update.bind(grads)

    def step(self, grads=None) -> None:
        """Update every parameter in place.

        Parameters
        ----------
        grads : iterable of arrays or None, optional
            As for `bind`, for this step only; without it the bound arrays are used.

        Raises
        ------
        TypeError, ValueError
            As `bind`, or an option out of range; nothing has been changed then.
        FloatingPointError
            A gradient is not finite, under ``check_finite="raise"``; no parameter has been changed then.
        """
        self.prepare()
        self._update.step(grads)

    @property
    def steps(self) -> int:
        """Updates done so far: the t of schedules."""
        return self._update.updates

    @property
    def skipped(self) -> int:
        """Steps left out under ``check_finite="skip"``."""
        return self._skipped + self._update.skipped

    @property
    def grad_norm(self) -> float:
        """Norm of all gradients at the last update, before clipping; NaN without `max_norm`."""
        return self._update.norm

    def interim_point(self):
        """Hold the parameters at the interim point of Nesterov's method, ``param + momentum * velocity``, in a block.

        Gradients for ``nesterov="interim"`` are taken inside the block, `step` is called after it. The
        parameters come back bit for bit, also on an exception. One whose gradient has been bound as None stays.
        """
        if not any(group.get("nesterov") == "interim" for group in self.param_groups):
            raise ValueError('interim_point: expected a group with nesterov="interim", got none')
        self.prepare()
        return core.SwappedParams(self, self._update, averages=False)

    def averaged(self):
        """Hold the moving averages in the parameters, in a block; they come back bit for bit, also on an exception."""
        if self._ema_decay is None:
            raise ValueError("averaged: expected an optimizer made with ema_decay, got one without")
        return core.SwappedParams(self, self._update, averages=True)

    # --- what a Trainer calls

    @property
    def compiled_update(self) -> core.Update:
        """The update that a Trainer compiles into its network's program; None where `stepper` makes the whole step."""
        return self._update

    def stepper(self, training):
        """The object whose `step` and `run` a Trainer calls; their signatures are those of ``training``.

        This is the hook for a rule whose step is more than an update of every element by its gradient. Here the
        compiled training itself steps, which holds `compiled_update`; a rule that needs more (`NewtonCG`: products
        with the curvature, and the loss at other points) returns an object of its own that calls `training`, and has
        None for its `compiled_update`.
        """
        return training

    def prepare(self) -> None:
        """Check and send to the kernel what has changed in `param_groups` since the last step; `step` does so itself.

        Raises
        ------
        TypeError, ValueError
            An option out of range; nothing has been changed then.
        """
        told = self._watched and any(p.present is not sent for p, sent in self._watched)
        if told or not self._update.settled(self.param_groups):
            self._send_options()

    def require_idle(self) -> None:
        """Raise RuntimeError while another thread steps, or an `interim_point` or `averaged` block is open."""
        self._update.require_idle()

    def parameters(self) -> list[np.ndarray]:
        """The arrays that are updated, in the order of their gradients."""
        return list(self._arrays)

    def last_lr(self) -> float:
        """The learning rate of the last update, of the first group; before any, that of the coming one."""
        return float(opt.now(self.param_groups[0]["lr"], max(self.steps - 1, 0)))

    def plateaus(self) -> list:
        """Every `ReduceOnPlateau` among the options, once."""
        found = [p for group in self.param_groups for p in opt.plateaus(group)]
        return list({id(p): p for p in found}.values())

    def measured(self, value) -> None:
        """Tell every `ReduceOnPlateau` among the options a measurement, each once; `Trainer.fit` does so itself."""
        for schedule in self.plateaus():
            schedule.update(value)

    @contextlib.contextmanager
    def regrouping(self, groups):
        """Take other arrays into the groups, a list for each, in order: those it has already keep their state.

        For a block that may still refuse: an exception in it puts everything back.
        """
        self._update.require_idle()
        self._require_members()
        mine, before, lists = self.param_groups, dict(vars(self)), [group["params"] for group in self.param_groups]
        known = {id(a): (self._states[k], self._update.get_counts(k)) for k, a in enumerate(self._arrays)}
        steps, accumulated, skipped = self.steps, self.accumulated, self.skipped
        try:
            groups = [{**group, "params": params} for group, params in zip(mine, groups, strict=True)]
            Optimizer.__init__(self, groups, self.defaults, **self._shared)
            for k, a in enumerate(self._arrays):
                if id(a) in known:
                    self._states[k], counts = known[id(a)]
                    self._update.set_counts(k, *counts)
            self._kept, self._skipped = [None] * len(self._arrays), skipped
            self._update.updates, self._update.accumulated = steps, accumulated
            self._send_options()
            yield
            for group, new in zip(mine, self.param_groups, strict=True):  # which callers may hold
                group["params"] = new["params"]
            self.param_groups = mine
        except BaseException:
            vars(self).update(before)
            for group, params in zip(mine, lists, strict=True):
                group["params"] = params
            raise

    @property
    def accumulate(self) -> int:
        """How many steps make one update."""
        return self._shared["accumulate"]

    @property
    def accumulated(self) -> int:
        """How many steps since the last update have left their gradients to the next one."""
        return self._update.accumulated

    # --- state

    def state_dict(self, copy=True) -> dict:
        """State and options, arrays or copies of them and numbers, in torch's layout, and the rule's name."""
        state = {}
        for k, arrays in enumerate(self._states):
            count, started, product, summed = self._update.get_counts(k)
            absent = {"home"} | ({"accumulated"} if not summed else set())
            if self._rule == "sgd" and not started:
                absent.add("momentum_buffer")  # torch has none either before the first step
            kept = {name: a.copy() if copy else a for name, a in arrays.items() if name not in absent}
            state[k] = {"step": count, **kept}
            if self._rule == "nadam":
                state[k]["mu_product"] = product
        return {
            "rule": type(self).__name__,
            "state": state,
            "param_groups": opt.plain_groups(self.param_groups),
            "steps": self.steps,
            "accumulated": self._update.accumulated,
            "accumulate": self.accumulate,
        }

    def load_state_dict(self, state_dict) -> None:
        """Take over what `state_dict` returned, or what the same rule of ``torch.optim`` returns.

        Parameters
        ----------
        state_dict : dict
            Of an optimizer of the same rule over parameters of the same shapes. Options that only torch
            knows are left out. Moments may hold NaN or infinity, as those of a run that diverged do.

        Raises
        ------
        ValueError
            State of another rule; groups, moments, shapes or counts that do not fit; a mean of squares below 0;
            nothing has been changed then. Adam's and AdamW's states in torch before 2.7 look alike: both are taken.
        """
        self._update.require_idle()
        try:
            self.restore(state_dict)
        except _files.MALFORMED as error:
            name, why = type(self).__name__, _files.why(error)
            raise ValueError(f"state_dict: expected one that fits this {name}, got another ({why})") from error

    def restore(self, state_dict, params=None) -> None:
        """`load_state_dict` for a caller who names the source of the state in an error of his own.

        Averages that the state lacks start at `params`, by default the parameters. A state that does not fit may
        raise any of ``_files.MALFORMED``; nothing has been changed then.
        """
        self._update.require_idle()
        self._require_members()
        states.require_rule(state_dict, type(self), self._decoupled({}), Optimizer._rules)
        groups, state = state_dict["param_groups"], state_dict["state"]
        numbers = states.numbers_of(state_dict, [len(g["params"]) for g in self.param_groups])
        merged = [
            {**mine, **{name: opt.restored(theirs[name]) for name in self.defaults if name in theirs}}
            for mine, theirs in zip(self.param_groups, groups, strict=True)
        ]
        options = [self._checked(group) for group in merged]
        owners = [group for group in merged for _ in group["params"]]
        parts = [
            states.entry_of(state.get(number), k, self._arrays[k].shape, self.moments)
            for k, number in enumerate(numbers)
        ]
        entries = [
            self._entry(k, *entry, owner, start)
            for k, (entry, owner, start) in enumerate(zip(parts, owners, params or self._arrays, strict=True))
        ]
        steps = states.count("steps", state_dict.get("steps", max(counts.steps for _, counts in parts)))
        accumulated = states.accumulated_in(state_dict, self.accumulate, any(counts.summed for _, counts in parts))
        opt.table_of(options, steps + 1)  # an option out of range raises here, before anything changes

        for mine, group in zip(self.param_groups, merged, strict=True):
            mine.update(group)
        self._states, self._kept = entries, [None] * len(entries)
        for k, (_, counts) in enumerate(parts):
            self._update.set_counts(k, *counts)
        self._update.updates, self._update.accumulated = steps, accumulated
        self._send_options()

    def _entry(self, k, moments, counts, group, start) -> dict:
        """New arrays for parameter k, with the moments of a state dict; an average that it lacks is `start`."""
        missing = [name for name in self._formula(group)[1] if name and name not in moments and self._rule != "sgd"]
        if counts.steps and missing:
            raise ValueError(f"expected {missing[0]} for params[{k}], got none")
        if counts.steps and self._ema_decay is not None:
            moments = {**moments, "ema": moments.get("ema", start)}
        entry = {name: self._new_array(k, name, group) for name in moments}
        with np.errstate(over="raise"):  # the parameter's dtype would make infinity of what it cannot hold
            for name, array in entry.items():
                array[...] = moments[name]
        return entry

    def save(self, path) -> None:
        """Write `state_dict` to a safetensors file; whole or not at all."""
        arrays, document = states.pack_state(self.state_dict())
        _files.write(path, arrays, {"kind": "optimizer", **document})

    def load(self, path) -> None:
        """Take over what `save` wrote.

        Raises
        ------
        OSError
            The file is missing or unreadable.
        ValueError
            It is damaged or belongs to another rule or other parameters; nothing has been changed then.
        """
        arrays, document = _files.read(path, "optimizer")
        self._update.require_idle()
        try:
            self.restore(states.unpack_state(arrays, document))
        except _files.MALFORMED as error:
            raise ValueError(f"{path}: does not fit this optimizer ({_files.why(error)})") from error

    def __getstate__(self, copy=True):
        names = ("param_groups", "defaults", "_shared")
        return {"state": self.state_dict(copy), **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state):
        Optimizer.__init__(
            self, [dict(group) for group in state["param_groups"]], state["defaults"], **state["_shared"]
        )
        self.load_state_dict(state["state"])

    def torch_state_dict(self) -> dict:
        """State for ``load_state_dict`` of the same rule in ``torch.optim``; needs torch.

        Raises
        ------
        ValueError
            torch lacks the rule, or an option that is in use.
        """
        return states.torch_state_dict(self)
