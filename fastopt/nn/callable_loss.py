"""A loss from a callable, ``loss(y_pred, y) -> (value, grad)``: what runs between two calls of the compiled program.

- Forward, then the callable in Python, then backward and the update: the same entries as in a compiled step, in
  several calls of the program instead of one, with the checks and copies of Python between them.
- The callable gets copies, so nothing that it keeps or writes to is the program's. What it raises leaves parameters,
  optimizer and running averages as they were.
"""

import math

import numpy as np

from fastopt._kernels import core
from fastopt.nn.losses import is_callable, value_of
from fastopt.optim.stepper import BatchByBatch


def stepper_of(loss, optimizer, training):
    """What makes a Trainer's steps: what the optimizer has for it, or `Given` where the loss is a callable."""
    if not is_callable(loss):
        return optimizer.stepper(training)
    if optimizer.compiled_update is None:
        name = type(optimizer).__name__
        raise ValueError(f"loss: expected one that is compiled, for the steps of {name}, got a callable")
    return Given(loss, training, optimizer.compiled_update)


class Given(BatchByBatch):
    """The steps of a compiled training without a loss of its own.

    Parameters
    ----------
    loss : callable
    training : Training
        Bound to no loss (`Derivatives.bind`).
    update : Update, optional
        Of an optimizer, for steps.
    """

    def __init__(self, loss, training, update=None):
        super().__init__(training)
        self.loss, self.update, self.parted = loss, update, core.PartedStep(training)
        self.stop = len(training.program.starts)

    def value_and_grad(self, x, y, sample_weight=None) -> float:
        """Loss of a batch; its gradients are those of the training then."""
        x, y, weights = self.training.check_batch(x, y, sample_weight)
        value, gradient = self._forward(x, y, weights)
        self._backward(gradient)
        return value

    def step(self, x, y, sample_weight=None, in_epoch=False) -> float:
        parted = self.parted
        x, y, weights = self.training.check_batch(x, y, sample_weight)
        with self.update:
            try:
                value, gradient = self._forward(x, y, weights)
                self._backward(self._defined(value, gradient))
                if in_epoch:
                    parted.finish(len(x), value, len(x) if weights is None else weights.sum(dtype=np.float64))
                else:
                    parted.finish(0, value, 0.0)
            finally:
                parted.give_up()
        return value

    def _forward(self, x, y, weights) -> tuple[float, np.ndarray]:
        """The loss of a batch, penalties of layers included, and the gradient of the outputs."""
        self.parted.start(x, None, None, len(x), self.training.batches)
        penalty, _ = self.parted.forward()
        value, gradient = value_of(self.loss, self.parted.values(self.stop - 1)[1].copy(), y, weights)
        return value + penalty, gradient

    def _backward(self, gradient):
        with np.errstate(over="ignore"):  # float32 makes infinity of what it cannot hold, as in compiled losses
            self.parted.gradients(self.stop - 1)[1][...] = gradient
        self.parted.backward(0, self.stop)

    def _defined(self, value, gradient) -> np.ndarray:
        """The gradient; refuse what is not defined, unless the optimizer looks at the gradients itself.

        Those of a loss that is NaN are NaN for it, as in a compiled step.
        """
        self.parted.require_defined([value])
        if math.isnan(value):
            return np.full(gradient.shape, math.nan)
        if not np.isfinite(gradient).all():
            try:
                self.parted.require_defined([math.nan])
            except FloatingPointError:
                bad = gradient[~np.isfinite(gradient)][0]
                raise FloatingPointError(
                    f"loss: expected a finite gradient from the callable, got {bad}; the step has not been taken"
                ) from None
        return gradient
