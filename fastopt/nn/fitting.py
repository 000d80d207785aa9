"""The epochs of one call of `Trainer.fit`: what is measured after each, who is told, and when training ends.

An epoch is over when schedules and early stopping have been told its measurements (`Fit.end_epoch`): all of it happens
or nothing, so that an interrupted run goes on bit for bit. Callbacks come afterwards.
"""

from fastopt._kernels import core
from fastopt.nn.early_stopping import BestEpoch
from fastopt.nn.evaluation import measured_on, with_accuracy
from fastopt.nn.fit_data import wish_to_end
from fastopt.nn.progress import History


class Fit:
    """One call of `Trainer.fit`, whose data and options have been checked.

    `stopping` and `watch` are the Trainer's, which keep what an interrupt leaves of an epoch; `arrays` gives the arrays
    of its network, `predict` what that predicts. `metrics`, unless None, are taken of the rows of `training` and
    `validation`, unless None.
    """

    def __init__(
        self, trainer, stopping, watch, arrays, predict, training, validation, patience, metrics, callbacks, bar
    ):
        self.trainer, self.stopping, self.watch, self.arrays, self.predict = trainer, stopping, watch, arrays, predict
        self.training, self.validation, self.patience, self.metrics = training, validation, patience, metrics
        self.callbacks, self.bar = callbacks, bar
        self.history = History()

    def run(self, train, epochs) -> History:
        """Run epochs; the best one is restored.

        `train` makes the steps of one and says whether a callback wishes to end training; measurements and callbacks
        follow.
        """
        best = self.stopping.best or BestEpoch()
        self.history.best_loss = best.loss
        for _ in range(epochs):
            if self.patience is not None and best.waited >= self.patience:  # an interrupted fit may have left it so
                break
            with self.watch:
                ends = train()
                measured = self.measure()
            best = self.end_epoch(measured, best)
            self.bar.epoch(self.history)
            answers = [callback(self.trainer, self.history) for callback in self.callbacks.after_epoch]
            if ends or wish_to_end(answers):
                break
        if self.stopping.best is not None:
            core.copy_arrays(self.arrays(), self.stopping.best.arrays)
            self.stopping.best = None
        return self.history

    def measure(self) -> dict[str, float]:
        """What the history says of an epoch whose rows are done; the loss is that of its batches, as they came."""
        run, loss = self.trainer.compiled_training, self.trainer.loss
        measured = {"loss": run.loss_sum / run.weight_sum if run.weight_sum > 0 else 0.0}
        if self.metrics and self.training is not None:
            measured = measured_on(self.predict, loss, self.training, self.metrics) | measured
        if self.validation is not None:
            metrics = with_accuracy(self.metrics or {}, loss, self.validation, self.trainer.net.out_features)
            found = measured_on(self.predict, loss, self.validation, metrics)
            measured |= {f"val_{name}": value for name, value in found.items()}
        return measured

    def end_epoch(self, measured, best) -> BestEpoch:
        """Tell schedules and early stopping what an epoch measured, and count it: all of it or nothing."""
        run, optimizer, stopping = self.trainer.compiled_training, self.trainer.optimizer, self.stopping
        before, epoch, lr = stopping.best, run.epoch, optimizer.last_lr()
        if self.validation is not None:
            best = best.after(measured["val_loss"], self.arrays() if self.patience is not None else [])
        schedules = optimizer.plateaus()
        states = [dict(vars(schedule)) for schedule in schedules]
        try:
            if schedules:
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
        self.history.add(measured, best, lr, self.watch.take())
        return best
