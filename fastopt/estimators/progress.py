"""How training goes, epoch by epoch, and when it ends: scikit-learn's rules for its own networks.

An epoch counts as better if the training loss falls by more than `tol`, or with early stopping if the score of the
validation rows rises by as much above the best one. After more than `n_iter_no_change` epochs in a row that are not,
training ends, or with an adaptive learning rate goes on at a fifth of it.
"""

from dataclasses import dataclass, field

import numpy as np

from fastopt import nn
from fastopt._kernels import core
from fastopt.nn import files
from fastopt.threads import one_blas_thread

LEAST_RATE = 1e-6  # of an adaptive learning rate


@dataclass
class Progress:
    """The curves of all fits so far of one network, and its best epoch."""

    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = np.inf
    best_score: float = -np.inf
    waited: int = 0  # epochs in a row that were not better
    best: list[np.ndarray] | None = None  # arrays of the network in the epoch of the best score
    rows: int = 0  # seen so far
    l2: float = 0.0  # of the weights of dense layers, where the loss of a Trainer leaves it out

    def penalty(self, net) -> float:
        """What the weights add to the loss."""
        if not self.l2:
            return 0.0
        weights = [layer.weight.ravel() for layer in net.layers if isinstance(layer, nn.Dense)]
        with one_blas_thread, np.errstate(over="ignore"):
            return self.l2 / 2 * sum(float(w @ w) for w in weights)

    def add_loss(self, loss, tol) -> None:
        """An epoch without validation rows."""
        self.waited = self.waited + 1 if loss > self.best_loss - tol else 0
        self.best_loss = min(loss, self.best_loss)

    def add_score(self, score, tol, net) -> None:
        """An epoch whose network has this score on the validation rows."""
        self.validation_scores.append(score)
        self.waited = self.waited + 1 if score < self.best_score + tol else 0
        if score > self.best_score:
            self.best_score, self.best = score, [a.copy() for a in files.arrays_of(net).values()]

    def restore(self, net) -> None:
        """Put the best epoch back into the network."""
        if self.best is not None:
            core.copy_arrays(list(files.arrays_of(net).values()), self.best)


class Watch:
    """What is called after each epoch of one fit; `ended` says whether nothing is left to be gained."""

    def __init__(self, progress, estimator, rows, score):
        self.progress, self.estimator, self.rows, self.score = progress, estimator, rows, score
        self.epochs, self.ended = 0, False

    def __call__(self, trainer, history) -> bool:
        progress, mine = self.progress, self.estimator
        self.epochs += 1
        progress.rows += self.rows
        progress.loss_curve.append(history["loss"][-1] + progress.penalty(trainer.net))
        if self.score is None:
            progress.add_loss(progress.loss_curve[-1], mine.tol)
        else:
            progress.add_score(self.score(), mine.tol, trainer.net)
        if mine.verbose:
            print(f"Iteration {self.epochs}, loss = {progress.loss_curve[-1]:.8f}")
            if self.score is not None:
                print(f"Validation score: {progress.validation_scores[-1]:f}")
        self.ended = progress.waited > mine.n_iter_no_change
        if mine.solver.lower() == "sgd":
            self.ended = not self._slower(trainer.optimizer) and self.ended
        return self.ended

    def _slower(self, optimizer) -> bool:
        """Lower the learning rate of sgd, where it is to be; whether that is instead of an end."""
        progress, mine, groups = self.progress, self.estimator, optimizer.param_groups
        lr, slower = groups[0]["lr"], False
        if mine.learning_rate == "invscaling":
            lr = mine.learning_rate_init / (progress.rows + 1) ** mine.power_t
        elif mine.learning_rate == "adaptive" and progress.waited > mine.n_iter_no_change and lr > LEAST_RATE:
            lr, progress.waited, slower = lr / 5, 0, True
        for group in groups:
            group["lr"] = lr
        return slower
