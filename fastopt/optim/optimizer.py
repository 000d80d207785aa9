"""What all optimizers share: parameter groups, moments, state, one compiled step.

A rule (rules.py) adds its table of defaults and says which moments it keeps.
The arithmetic is a kernel; options are read from `param_groups` at every step.
"""

import math

import numpy as np

from fastopt._arrays import aligned_zeros
from fastopt._kernels import core


class Optimizer:
    """Base of the optimizers; construct one of its subclasses.

    Attributes
    ----------
    param_groups : list of dict
        Options of each group, and its arrays under "params"; options may be changed between steps.
    """

    defaults: dict = {}

    def __init__(self, params, **options):
        params = list(params) if not isinstance(params, np.ndarray) else [params]
        if not params:
            raise ValueError("params: expected at least one array, got none")
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        self.param_groups = [self._group(group, options) for group in groups]
        arrays = [(a, i) for i, group in enumerate(self.param_groups) for a in group["params"]]
        self._rule, self._moments = self._kernel()
        self._states = [tuple(aligned_zeros(np.shape(a), a.dtype) for _ in self._moments) for a, _ in arrays]
        named = [(f"params[{k}]", a, i) for k, (a, i) in enumerate(arrays)]
        self._update = core.Update(self._rule, named, self._states, len(self.param_groups))

    def _group(self, group, options):
        unknown = (set(group) | set(options)) - set(self.defaults) - {"params"}
        if unknown:
            raise TypeError(
                f"{type(self).__name__}: unknown option {sorted(unknown)[0]!r}; it takes {', '.join(self.defaults)}"
            )
        params = group["params"]
        params = [params] if isinstance(params, np.ndarray) else list(params)
        for k, a in enumerate(params):
            if not isinstance(a, np.ndarray):
                raise TypeError(f"params[{k}]: expected a NumPy array, got {type(a).__name__}")
        merged = {**self.defaults, **options, **group, "params": params}
        self._check(merged)
        return merged

    def _kernel(self) -> tuple[str, tuple[str, ...]]:
        """The kernel's rule and the names of its moments."""
        raise NotImplementedError

    def _check(self, group) -> None:
        """Raise ValueError for options out of range."""
        for name in ("lr", "weight_decay", "eps", "momentum"):
            if name in group and not 0 <= group[name] < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {group[name]!r}")

    def _options(self, group) -> dict:
        """The group's options as the kernel takes them."""
        return {name: value for name, value in group.items() if name != "params"}

    def _send_options(self) -> None:
        for group in self.param_groups:
            self._check(group)
        for i, group in enumerate(self.param_groups):
            self._update.set_options(i, **self._options(group))

    def bind(self, grads) -> None:
        """Check gradients once; later calls of ``step()`` use the same arrays.

        Parameters
        ----------
        grads : iterable of ndarray or None
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
        grads : iterable of ndarray or None, optional
            As for `bind`; without it the bound arrays are used.

        Raises
        ------
        TypeError, ValueError
            As `bind`, or an option out of range; nothing has been changed then.
        """
        if grads is not None:
            self._update.bind(grads)
        self._send_options()
        self._update.step()

    def state_dict(self) -> dict:
        """State and options as plain arrays and numbers, in torch's layout; the arrays are copies."""
        state = {
            i: {"step": count, **{name: a.copy() for name, a in zip(self._moments, moments, strict=True)}}
            for i, (count, moments) in enumerate(zip(self._update.counts, self._states, strict=True))
        }
        groups, first = [], 0
        for group in self.param_groups:
            last = first + len(group["params"])
            groups.append({**group, "params": list(range(first, last))})
            first = last
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict) -> None:
        """Take over what `state_dict` returned for an optimizer of the same rule and parameters.

        Raises
        ------
        ValueError
            Groups, moments or shapes that do not fit; nothing has been changed then.
        """
        groups, state = state_dict["param_groups"], state_dict["state"]
        sizes = [len(g["params"]) for g in self.param_groups]
        found = [len(g["params"]) for g in groups]
        if found != sizes:
            raise ValueError(f"state_dict: expected groups of {sizes} parameters, got {found}")
        entries = [state.get(i, {"step": 0}) for i in range(len(self._states))]
        for i, (entry, moments) in enumerate(zip(entries, self._states, strict=True)):
            for name, a in zip(self._moments, moments, strict=True):
                shape = np.shape(entry.get(name))
                if entry["step"] and shape != a.shape:
                    raise ValueError(f"state_dict: expected {name} of shape {a.shape} for params[{i}], got {shape}")
        merged = [
            {**mine, **{k: v for k, v in theirs.items() if k in self.defaults}}
            for mine, theirs in zip(self.param_groups, groups, strict=True)
        ]
        for group in merged:
            self._check(group)
        for mine, group in zip(self.param_groups, merged, strict=True):
            mine.update(group)
        for entry, moments in zip(entries, self._states, strict=True):
            for name, a in zip(self._moments, moments, strict=True):
                a[...] = entry.get(name, 0)
        self._update.counts = [int(entry["step"]) for entry in entries]
