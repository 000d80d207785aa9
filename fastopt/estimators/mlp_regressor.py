"""A network that predicts values, as an estimator."""

from sklearn.base import RegressorMixin

from fastopt.estimators.mlp import MLP
from fastopt.estimators.targets import Values

LOSSES = {"squared_error": "mse", "absolute_error": "mae", "huber": "huber"}


class MLPRegressor(RegressorMixin, MLP):
    """Multi-layer perceptron regressor, of one value or several.

    y is centered and divided by its deviation in the first fit: the network learns numbers of size one, `predict` gives
    them in units of y.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "huber"}
        Of the values in units of their deviation; huber turns from squares to absolute values at one deviation.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, \
beta_1, beta_2, epsilon, n_iter_no_change, dropout, batch_norm, standardize, init, solver_options, dtype
        As for `MLPClassifier`. The score of early stopping is R².

    Attributes
    ----------
    net_ : nn.Sequential
        The network; its outputs are y in units of its deviation.
    loss_curve_, loss_, best_loss_ : list of float, float, float or None
        Training loss by epoch, of y in units of its deviation, penalty included; its last and its least.
    validation_scores_, best_validation_score_ : list of float, float, or None
        R² on the rows held out by epoch, and its best; None without early stopping.
    coefs_, intercepts_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As of `MLPClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.estimators import MLPRegressor
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> mlp = MLPRegressor(hidden_layer_sizes=(32, 32), learning_rate_init=0.01, random_state=0)
    >>> bool(mlp.fit(X, 1000 + X[:, 0] ** 2).score(X, 1000 + X[:, 0] ** 2) > 0.99)
    True
    """

    _y_numeric = True

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        dropout=0.0,
        batch_norm=False,
        standardize=False,
        init="glorot",
        solver_options=None,
        dtype="float32",
    ):
        self._keep(locals())

    def _checked(self):
        if not (isinstance(self.loss, str) and self.loss in LOSSES):
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}")
        return {"loss": self.loss, **super()._checked()}

    def _targets_of(self, y, weights, classes):
        values = Values(y, weights, LOSSES[self.loss])
        return values, values.codes("y", y)

    def _class_weights(self, targets, codes, weights, incremental):
        return None

    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None, sample_weight_val=None):
        """Train the network.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
            Sparse rows become dense: they take n * n_features numbers of the network's dtype.
        y : array_like, shape (n,) or (n, n_outputs)
        sample_weight : array_like, shape (n,), optional
            At least 0; a batch's loss is divided by the weights of its rows.
        X_val, y_val, sample_weight_val : array_like, optional
            Rows to score with early stopping, instead of a share of X.

        Returns
        -------
        MLPRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            Options or data that do not fit.
        FloatingPointError
            The loss became NaN; scale X, or lower `learning_rate_init`.

        Warns
        -----
        ConvergenceWarning
            The network still improves after `max_iter` epochs.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch, going on where the network stands; the first call settles mean and deviation of y.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        MLPRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As `fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
