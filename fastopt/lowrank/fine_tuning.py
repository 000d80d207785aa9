"""Fine-tuning of a compressed network by the Trainer: data and options that are checked before any work, and scores."""

import copy
import math

from fastopt._numbers import flag
from fastopt.nn.evaluation import measured_on, with_accuracy
from fastopt.nn.fit_data import checked_rows, checked_validation, require_sizes
from fastopt.nn.progress import load_tqdm
from fastopt.nn.trainer import Trainer
from fastopt.optim.named import optimizer_over
from fastopt.schedules import Cosine


class FineTuning:
    """What `compress` is given for it, of this network.

    Attributes
    ----------
    X : ndarray
        The samples, in the network's dtype.
    measured_on : str
        Which data scores are of: "validation", or "X" where none was given.
    """

    def __init__(self, net, loss, X, y, validation, epochs, batch_size, optimizer, seed, progress):
        if flag("progress", progress):
            load_tqdm()
        training = net.derivatives(loss)
        self.X, self._y, _ = checked = checked_rows(training, loss, X, y, None, True)
        require_sizes(batch_size, len(self.X), 0, 1, net.least_rows)
        self._validation = None if validation is None else checked_validation(training, loss, validation, True)
        self._held = self._validation or checked
        self.measured_on = "X" if validation is None else "validation"
        self._loss, self._epochs, self._batch_size = loss, epochs, batch_size
        self._optimizer, self._seed, self._progress = optimizer, seed, progress
        self._optimizer_of(copy.deepcopy(net))  # which may be refused

    def score(self, net) -> dict[str, float]:
        """The loss of a network and, of classes, its accuracy."""
        return measured_on(
            net.predict, self._loss, self._held, with_accuracy({}, self._loss, self._held, net.out_features)
        )

    def tune(self, net) -> dict[str, float]:
        """Train a network, and its scores; FloatingPointError where its loss is no number then."""
        trainer = Trainer(net, self._loss, self._optimizer_of(net), seed=self._seed)
        patience = None if self._validation is None else self._epochs
        how = {"validation": self._validation, "patience": patience, "progress": self._progress}
        trainer.fit(self.X, self._y, self._epochs, self._batch_size, **how)
        scores = self.score(net)
        if math.isnan(scores["loss"]):
            raise FloatingPointError(f"the loss on {self.measured_on} is no number")
        return scores

    def _optimizer_of(self, net):
        params, given = net.parameters(), self._optimizer
        if callable(given):
            return optimizer_over(params, given(params))
        if not isinstance(given, str):
            raise TypeError(
                "optimizer: expected the name of a rule of fastopt.optim, or a function from parameters to an "
                f"optimizer over them, got {type(given).__name__}"
            )
        rule = optimizer_over(params, given)
        (group,) = rule.param_groups
        steps = self._epochs * -(-len(self.X) // self._batch_size)
        if steps and "lr" in group:
            group["lr"] = Cosine(group["lr"], steps)
        return rule
