"""What `MLPClassifier` and `MLPRegressor` share: options checked, data read, a network made and trained.

- A constructor keeps what it is given; everything is checked in `fit`, options before the data are read.
- A fit assigns its attributes when training is over, so one that fails leaves an earlier one as it was; one that goes
  on (`warm_start`, `partial_fit`) has moved the network's weights then.
- What y means is an object of targets.py, when training ends is progress.py. The Trainer is kept beside the network:
  a fit that goes on does so with the moments of the optimizer, and draws rows as one longer fit would have done.
- A network computes in its own dtype and reads every column of a row: data are converted to that dtype, and sparse
  matrices become dense, in `predict` a slice of rows at a time.
"""

import copy
import inspect
import math
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fastopt import nn, optim
from fastopt._kernels import core
from fastopt._numbers import finite_number, flag, whole_number
from fastopt.estimators.inputs import check_present, columns_kept
from fastopt.estimators.progress import Progress, Watch
from fastopt.estimators.targets import Values
from fastopt.estimators.weights import row_weights, with_class_weights
from fastopt.nn import files
from fastopt.optim import named
from fastopt.schedules import Schedule

AUTO_BATCH = 200  # scikit-learn's
ROWS = 4096  # of a sparse matrix that are dense at a time
RULES = {name.lower(): rule for name, rule in named.RULES.items() if rule is not optim.NewtonCG}
ACTIVATIONS = {"logistic": "sigmoid", **{name: name for name in core.ACTIVATIONS if name != "softmax"}}
LEAST, MOST = 1e-30, 1e30  # of the largest weight of a row, which networks hold in float32
RATES = ("constant", "invscaling", "adaptive")
MOMENTS = (0.9, 0.999)  # betas of the rules that scikit-learn's beta_1 and beta_2 are for
# The penalty is the weight decay of the rule, which costs a step of a small network 5 % where that of a layer costs 15.
# It is that of the layers where the rule's decay is decoupled from the gradient, or the caller sets it.
DECOUPLED, DECAYS = (optim.AdamW, optim.Lion), {"weight_decay", "decoupled_weight_decay"}
MAY_CHANGE = ("alpha", "batch_size", "solver", "solver_options")  # between fits that go on


class Rows(NamedTuple):
    """Rows that are trained on, or held out and scored; `codes` are those of targets.py."""

    X: np.ndarray
    codes: np.ndarray
    weights: np.ndarray | None


class MLP(BaseEstimator):
    """A network that trains by `nn.Trainer`; its subclasses say what y means."""

    net_: nn.Sequential
    _trainer: nn.Trainer
    _targets: Any  # an object of targets.py
    _progress: Progress
    _made: dict  # what the network was made of

    if TYPE_CHECKING:  # parameters and attributes are assigned by name

        def __getattr__(self, name: str) -> Any: ...

    def _keep(self, arguments):
        """Assign what the constructor was called with, its `locals()`."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    # -- options

    def _checked(self) -> dict:
        """What network and optimizer are made of, as plain values; ValueError for an option that does not fit."""
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping", "batch_norm", "standardize"):
            flag(name, getattr(self, name))
        whole_number("max_iter", self.max_iter)
        if self.n_iter_no_change != math.inf:
            whole_number("n_iter_no_change", self.n_iter_no_change)
        if self.batch_size != "auto":
            whole_number("batch_size", self.batch_size)
        for name, limits in (
            ("tol", {"least": 0}),
            ("power_t", {"least": 0}),
            ("alpha", {"least": 0}),
            ("validation_fraction", {"above": 0, "below": 1}),
            ("dropout", {"least": 0, "below": 1}),
            ("momentum", {"least": 0, "most": 1}),
        ):
            finite_number(name, getattr(self, name), **limits)
        if not (isinstance(self.activation, str) and self.activation in ACTIVATIONS):
            raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") and not isinstance(sizes, str) else [sizes]
        return {
            "hidden_layer_sizes": tuple(whole_number("hidden_layer_sizes", n) for n in sizes),
            "activation": ACTIVATIONS[self.activation],
            "alpha": self.alpha,
            "batch_size": self.batch_size,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "standardize": self.standardize,
            "init": self.init,
            "dtype": self._dtype(),
            "solver": self._rule(),
            "solver_options": self._solver_options(),
        }

    def _dtype(self) -> np.dtype:
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            if self.dtype is not None and self.dtype == dtype:
                return dtype
        raise ValueError(f"dtype: expected float32 or float64, got {self.dtype!r}")

    def _rule(self) -> type[optim.Optimizer]:
        if not (isinstance(self.solver, str) and self.solver.lower() in RULES):
            raise ValueError(f"solver: expected one of {', '.join(RULES)}, got {self.solver!r}")
        return RULES[self.solver.lower()]

    def _solver_options(self) -> dict:
        """What the rule of the optimizer is called with."""
        rule, rate = self._rule(), self.learning_rate
        if not isinstance(rate, Schedule) and rate not in RATES:
            raise ValueError(f"learning_rate: expected one of {', '.join(RATES)} or a schedule, got {rate!r}")
        lr = finite_number("learning_rate_init", self.learning_rate_init, above=0)
        options: dict[str, Any] = {"lr": rate if isinstance(rate, Schedule) else lr}
        if rule is optim.SGD:
            options |= {"momentum": self.momentum, "nesterov": self.nesterovs_momentum and self.momentum > 0}
        elif rule.defaults.get("betas") == MOMENTS:
            options |= {"betas": (self.beta_1, self.beta_2), "eps": self.epsilon}
        more = {} if self.solver_options is None else self.solver_options
        known = [name for name in inspect.signature(rule).parameters if name != "params"]
        if not isinstance(more, dict) or not more.keys() <= set(known):
            raise ValueError(f"solver_options: expected None or a dict of {', '.join(known)}, got {more!r}")
        return options | more

    # -- data

    def _read(self, X, y="no_validation", *, made, reset=False):
        """X as a network that is made so reads it, in rows; and y, if it is given."""
        return validate_data(
            self,
            X,
            y,
            reset=reset,
            **({} if isinstance(y, str) else {"multi_output": True, "y_numeric": self._y_numeric}),
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32) if made["standardize"] else made["dtype"],  # or the first layer reads it
            order="C",
        )

    def _rows(self, X, y, sample_weight, validation, made, classes, incremental, goes_on, seed):
        """What y means, the rows to train on, and those to hold out, if any; `classes` where y may lack some."""
        check_present(X=X, y=y, X_val=validation[0], y_val=validation[1])
        X, y = self._read(X, y, made=made, reset=not goes_on)
        weights = row_weights("sample_weight", sample_weight, X)
        if goes_on:
            targets, codes = self._targets, self._targets.codes("y", y)
        else:
            targets, codes = self._targets_of(y, weights, classes)
        of_class = self._class_weights(targets, codes, weights, incremental)
        rows = Rows(_dense(X), codes, with_class_weights(weights, of_class, codes))
        if rows.weights is not None and not LEAST <= rows.weights.max() <= MOST:
            got = f"{rows.weights.max():.3g}"
            raise ValueError(f"sample_weight: expected a largest one from {LEAST} to {MOST}, got {got}; scale them")
        held = self._held_out(made, targets, of_class, *validation)
        if self.early_stopping and held is None:
            rows, held = self._parted(rows, seed)
        return targets, rows, held

    def _held_out(self, made, targets, of_class, X_val, y_val, sample_weight_val) -> Rows | None:
        """The validation rows that a caller gives."""
        if X_val is None and y_val is None and sample_weight_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError(f"{'X_val' if X_val is None else 'y_val'}: expected X_val and y_val, or neither, got None")
        if not self.early_stopping:
            raise ValueError("X_val, y_val: expected early_stopping=True, for that is what they are for, got False")
        X, y = self._read(X_val, y_val, made=made)
        codes = targets.codes("y_val", y)
        if len(codes) < 2 and isinstance(targets, Values):
            raise ValueError(f"X_val, y_val: expected two rows or more, which R² takes, got {len(codes)}")
        weights = with_class_weights(row_weights("sample_weight_val", sample_weight_val, X), of_class, codes)
        return Rows(_dense(X), codes, weights)

    def _parted(self, rows, seed) -> tuple[Rows, Rows]:
        """Rows to train on and, at random but with the same share of each class, rows to hold out."""
        X, codes, weights = rows
        share, labels = self.validation_fraction, codes if codes.dtype.kind == "i" and codes.ndim == 1 else None
        try:
            parts = train_test_split(np.arange(len(X)), test_size=share, random_state=seed, stratify=labels)
        except ValueError as error:  # too few rows, of a class or in all
            way_out = "pass another share, or X_val and y_val"
            raise ValueError(f"validation_fraction: got {share} of {len(X)} rows: {error}; {way_out}") from None
        kept, held = (Rows(X[r], codes[r], None if weights is None else weights[r]) for r in parts)
        if len(held.X) < 2 or not all(part.weights is None or part.weights.any() for part in (kept, held)):
            got = f"{len(held.X)} of {len(X)}"
            raise ValueError(f"validation_fraction: expected two rows or more, some of positive weight, got {got}")
        return kept, held

    # -- training

    def _fit(self, X, y, sample_weight, validation=(None, None, None), *, classes=None, incremental=False):
        """Train for max_iter epochs, or for one; `classes` where y need not show all of them."""
        made = self._checked()
        if incremental and self.early_stopping:
            raise ValueError("early_stopping: expected False for partial_fit, whose calls are an epoch each, got True")
        goes_on = (self.warm_start or incremental) and hasattr(self, "net_")
        *seeds, split_seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=3).tolist()
        with columns_kept(self):
            targets, rows, held = self._rows(
                X, y, sample_weight, validation, made, classes, incremental, goes_on, split_seed
            )
            batch = min(len(rows.X), AUTO_BATCH if self.batch_size == "auto" else self.batch_size)
            progress = self._progress if goes_on else Progress()
            if goes_on and made == self._made:
                trainer = self._trainer
            else:
                trainer = self._new_trainer(made, goes_on, targets, rows, batch, progress, seeds)
            net = trainer.net
            score = None if held is None else lambda: targets.score(net.predict(held.X), held.codes, held.weights)
            watch = Watch(progress, self, len(rows.X), score)
            try:
                trainer.fit(
                    rows.X,
                    targets.encoded(rows.codes, net.dtype),
                    epochs=1 if incremental else self.max_iter,
                    batch_size=batch,
                    sample_weight=rows.weights,
                    shuffle=self.shuffle,
                    callbacks=watch,
                )
            except BaseException:
                trainer.abandon_fit()
                raise
        if held is not None:
            progress.restore(net)
        self._made, self._trainer, self._targets, self._progress = made, trainer, targets, progress
        self._tell(watch.epochs)
        if not (watch.ended or incremental):
            warnings.warn(
                f"max_iter: the network still improves after {self.max_iter} epochs; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _new_trainer(self, made, goes_on, targets, rows, batch, progress, seeds) -> nn.Trainer:
        """A Trainer of a new network, which starts anew or, in a fit that goes on, where the last one stands."""
        net_seed, order_seed = seeds
        weight = batch if rows.weights is None else batch * rows.weights.mean()
        l2 = made["alpha"] * targets.loss_scale / weight
        by_rule = made["solver"] not in DECOUPLED and not made["solver_options"].keys() & DECAYS
        net = _network(made, rows.X.shape[1], targets.outputs, 0.0 if by_rule else l2, net_seed)
        if goes_on:
            self._take_over(net, made)
        progress.l2 = l2 if by_rule else 0.0
        params = optim.groups(net, progress.l2) if progress.l2 else net.parameters()
        optimizer = made["solver"](params, **copy.deepcopy(made["solver_options"]))
        trainer = nn.Trainer(net, targets.loss, optimizer, max_batch=batch, seed=order_seed)
        trainer.epoch = self._trainer.epoch if goes_on else 0
        return trainer

    def _take_over(self, net, made) -> None:
        """Copy the arrays of the network so far into a new one, which differs in its penalty alone."""
        for name in made.keys() - set(MAY_CHANGE):
            if made[name] != self._made[name]:
                raise ValueError(
                    f"{name}: expected {self._made[name]!r}, as in the fit that this one goes on with, got "
                    f"{made[name]!r}; pass warm_start=False, or clone the estimator"
                )
        core.copy_arrays(*(list(files.arrays_of(n).values()) for n in (net, self.net_)))
        files.tell_copied(net, files.stored_arrays(self.net_))
        for new, old in zip(net.layers, self.net_.layers, strict=True):
            new.calibrated = old.calibrated

    def _tell(self, epochs) -> None:
        """Assign what scikit-learn's networks tell of a fit."""
        progress, targets = self._progress, self._targets
        self.net_, self.n_iter_, self.t_ = self._trainer.net, epochs, progress.rows
        self.n_layers_, self.n_outputs_ = len(self._made["hidden_layer_sizes"]) + 2, targets.outputs
        self.out_activation_ = targets.out_activation
        self.loss_curve_, self.loss_ = list(progress.loss_curve), progress.loss_curve[-1]
        by_score = self.early_stopping
        self.best_loss_ = None if by_score else progress.best_loss
        self.validation_scores_ = list(progress.validation_scores) if by_score else None
        self.best_validation_score_ = progress.best_score if by_score else None

    # -- the fitted network

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_")

    def _output(self, X) -> np.ndarray:
        """What the network makes of X, before a softmax or sigmoid."""
        check_is_fitted(self)
        check_present(X=X)
        X = self._read(X, made=self._made)
        if not issparse(X):
            return self.net_.predict(X)
        output = np.empty((X.shape[0], self.n_outputs_), self.net_.dtype)
        for start in range(0, len(output), ROWS):
            self.net_.predict(X[start : start + ROWS].toarray(), out=output[start : start + ROWS])
        return output

    def predict(self, X):
        """Predict y.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)

        Returns
        -------
        ndarray, shape (n,) or (n, n_outputs)
            As y was in `fit`.
        """
        output = self._output(X)
        return self._targets.decoded(output)

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weights of the dense layers, (in, out) each: the network's own arrays, transposed."""
        return [layer.weight.T for layer in self.net_.layers if isinstance(layer, nn.Dense)]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The biases of the dense layers, the network's own arrays."""
        return [layer.bias for layer in self.net_.layers if isinstance(layer, nn.Dense)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _dense(X) -> np.ndarray:
    return X.toarray() if issparse(X) else X


def _network(made, features, outputs, l2, seed) -> nn.Sequential:
    """Hidden layers, each with what is asked for behind it, and a last one without an activation."""
    *hidden, last = pairwise([features, *made["hidden_layer_sizes"], outputs])
    layers: list[nn.Layer] = [nn.Standardize(features)] if made["standardize"] else []
    activation, options = made["activation"], {"init": made["init"], "l2": l2}
    for n_in, n_out in hidden:
        layers.append(nn.Dense(n_in, n_out, "identity" if made["batch_norm"] else activation, **options))
        layers += [nn.BatchNorm(n_out, activation=activation)] if made["batch_norm"] else []
        layers += [nn.Dropout(made["dropout"])] if made["dropout"] else []
    layers.append(nn.Dense(*last, **options))
    return nn.Sequential(layers, rng=seed, dtype=made["dtype"])
