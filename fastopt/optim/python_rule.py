"""PythonRule: the base of optimizers whose rule is a method in Python, over NumPy arrays.

- The rule gets gradients that are whole, so a Trainer steps in two calls of its compiled program with the rule between
  them. What is a kernel's alone (clipping, accumulation, averages) such an optimizer does not have.
- A step works on copies, which go to the parameters in one call once the rule has returned for all of them: an
  exception in it leaves everything as it was.
"""

import numpy as np

from fastopt._arrays import as_array
from fastopt._kernels import core
from fastopt.optim import options as opt
from fastopt.optim.optimizer import Optimizer
from fastopt.optim.stepper import Stepper


class PythonRule(Optimizer):
    """Base of rules written in NumPy. A subclass has a constructor, whose defaults are its options, and `update`.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    options : dict
        Of the rule: ``locals()`` of the subclass's constructor.

    Attributes
    ----------
    moments : tuple of str
        Names of the arrays that the rule keeps for each parameter, of its shape and dtype. They start at zero, and
        files and state dicts hold them.

    Notes
    -----
    Steps, schedules, groups, state dicts, files, and `nn.Trainer` with all that it does, are those of every optimizer.
    A step costs the Python of the rule and a copy of parameters and moments; it releases no thread. Losses that are
    callables and `fastopt.parallel` need a rule that is compiled.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> class SignDescent(fo.optim.PythonRule):
    ...     moments = ("average",)
    ...
    ...     def __init__(self, params, lr=0.01, beta=0.9):
    ...         super().__init__(params, locals())
    ...
    ...     def update(self, param, grad, state, options):
    ...         average = state["average"]
    ...         average += (1 - options["beta"]) * (grad - average)
    ...         param -= options["lr"] * np.sign(average)
    >>> w = np.array([1.0, 2.0])
    >>> SignDescent([w], lr=0.5).step([np.array([2.0, -2.0])])
    >>> w
    array([0.5, 2.5])
    """

    def __init__(self, params, options):
        if isinstance(self.moments, str):
            raise TypeError(f"{type(self).__name__}: expected moments as a tuple of names, got {self.moments!r}")
        self._rule = "sgd"  # the kernel keeps options, counts and arrays by it; its formula never runs
        self._given = None
        super().__init__(params, options)

    def update(self, param, grad, state, options) -> None:
        """Move one parameter: write to `param`, and to the arrays of `state`, in place.

        Parameters
        ----------
        param, grad : ndarray
            The gradient is only read.
        state : dict
            The arrays of `moments` by name, and "step", the number of this update, from 1 on.
        options : dict
            Of the parameter's group, each schedule as its present number.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected a method update(param, grad, state, options)")

    def _formula(self, group):
        return "plain", self.moments

    def __setstate__(self, state):
        self._rule, self._given = "sgd", None
        super().__setstate__(state)

    def bind(self, grads):
        grads = list(grads)
        super().bind(grads)
        self._given = grads

    def step(self, grads=None):
        self.prepare()
        given = self._given
        if grads is None and given is None:
            raise ValueError("grads: expected arrays, got none; pass them, or bind them first")
        grads = given if grads is None else list(grads)
        super().bind(grads)  # which checks them
        with self._update:
            core.finish_step(self._update, *self._moved([None if g is None else as_array("grads", g) for g in grads]))

    def _moved(self, grads) -> tuple[list[np.ndarray], list[np.ndarray], list[tuple[int, int]]]:
        """A step of all parameters whose gradient is not None: arrays, what they become, and (number, steps)."""
        present: list[np.ndarray] = []
        changed: list[np.ndarray] = []
        steps: list[tuple[int, int]] = []
        owners = [group for group in self.param_groups for _ in group["params"]]
        for k, (param, grad, group) in enumerate(zip(self._arrays, grads, owners, strict=True)):
            if grad is None:
                continue
            count = self._update.get_counts(k)[0] + 1
            mine = {"param": param, **{name: self._states[k][name] for name in self.moments}}
            copies = {name: a.copy() for name, a in mine.items()}
            state = {"step": count, **{name: copies[name] for name in self.moments}}
            options = {name: opt.now(group[name], self.steps) for name in self.defaults}
            answer: object = self.update(copies["param"], grad, state, options)  # type: ignore[func-returns-value]
            if answer is not None or any(state[name] is not copies[name] for name in self.moments):
                raise TypeError(
                    f"{type(self).__name__}: expected an update that writes to the arrays it is given, in place, got "
                    "one that returns an array, or puts another into state"
                )
            present += mine.values()
            changed += copies.values()
            steps.append((k, count))
        return present, changed, steps

    # --- what a Trainer calls

    @property
    def compiled_update(self):
        """None: no part of a step is an update inside the compiled program."""
        return None

    def stepper(self, training) -> Stepper:
        """What makes a Trainer's steps, between calls of its compiled training."""
        return Stepper(self, training)

    def step_on(self, training, x, targets, weights, in_epoch) -> float:
        """One step on a checked batch, which counts in its epoch or not; returns its loss before."""
        self._update.require_in_place()
        with self._update:
            loss = training.step(x, targets, weights)
            if not (loss == loss and all(grad is None or np.isfinite(grad).all() for grad in training.grads)):
                raise FloatingPointError(
                    f"{type(self).__name__}: expected a finite loss and gradient, got loss {loss}; no parameter has "
                    "been changed"
                )
            core.finish_step(self._update, *self._moved(training.grads), training, loss, in_epoch)
        return loss
