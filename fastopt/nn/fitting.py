"""The epochs of one call of `Trainer.fit`: what is measured after each, who is told, and when training ends.

An epoch is over when schedules and early stopping have been told its measurements (`Fit.end_epoch`): all of it happens
or nothing, so that an interrupted run goes on bit for bit. Callbacks come afterwards.
"""

import numpy as np

from fastopt._kernels import core
from fastopt.nn.early_stopping import BestEpoch, validate
from fastopt.nn.progress import History


class Fit:
    """One call of `Trainer.fit`, whose data and options have been checked.

    `stopping` is the Trainer's early stopping; `arrays` gives those of its network, `predict` what that predicts of
    validation data.
    """

    def __init__(self, trainer, stopping, arrays, predict, validation, patience, callbacks, bar):
        self.trainer, self.stopping, self.arrays, self.predict = trainer, stopping, arrays, predict
        self.validation, self.patience, self.callbacks, self.bar = validation, patience, callbacks, bar
        self.history = History()

    def run(self, train, epochs) -> History:
        """Run epochs: `train` makes the steps of one, measurements and callbacks follow; the best epoch is restored."""
        best = self.stopping.best or BestEpoch()
        self.history.best_loss = best.loss
        for _ in range(epochs):
            if self.patience is not None and best.waited >= self.patience:  # an interrupted fit may have left it so
                break
            train()
            best = self.end_epoch(best)
            self.bar.epoch(self.history)
            wishes = [callback(self.trainer, self.history) for callback in self.callbacks]
            if any(isinstance(wish, bool | np.bool_) and wish for wish in wishes):
                break
        if self.stopping.best is not None:
            core.copy_arrays(self.arrays(), self.stopping.best.arrays)
            self.stopping.best = None
        return self.history

    def end_epoch(self, best) -> BestEpoch:
        """Measure an epoch whose rows are done, tell schedules and early stopping, count it: all of it or nothing."""
        run, optimizer, stopping = self.trainer.compiled_training, self.trainer.optimizer, self.stopping
        before, epoch = stopping.best, run.epoch
        measured = {"loss": run.loss_sum / run.weight_sum if run.weight_sum > 0 else 0.0}
        if self.validation is not None:
            measured |= validate(self.predict, self.trainer.loss, *self.validation)
            best = best.after(measured["val_loss"], self.arrays() if self.patience is not None else [])
        schedules = optimizer.plateaus()
        states = [dict(vars(schedule)) for schedule in schedules]
        try:
            optimizer.measured(measured["val_loss" if self.validation is not None else "loss"])
            if self.patience is not None:
                stopping.best = best
            run.end_epoch()
        except BaseException:
            if run.epoch == epoch:
                stopping.best = before
                for schedule, state in zip(schedules, states, strict=True):
                    vars(schedule).update(state)
            raise
        self.history.add(measured, best)
        return best
