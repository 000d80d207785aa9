"""A network that classifies, as an estimator."""

import numpy as np
from scipy.special import log_expit, log_softmax
from sklearn.base import ClassifierMixin

from fastopt._kernels import core
from fastopt.estimators.mlp import MLP
from fastopt.estimators.targets import Indicators, class_targets, labels_apart
from fastopt.estimators.weights import class_weights


class MLPClassifier(ClassifierMixin, MLP):
    """Multi-layer perceptron classifier.

    Parameters that scikit-learn's ``MLPClassifier`` has are its own in name, meaning and default; the rest come last.

    Parameters
    ----------
    hidden_layer_sizes : int or array_like of int
        Units of each hidden layer.
    activation : str
        Of the hidden layers: identity, logistic (or sigmoid), tanh, relu, leaky_relu, gelu or silu.
    solver : str
        The update rule: sgd, adam, adamw, radam, nadam, adamax, rmsprop, adagrad, adadelta or lion.
    alpha : float
        Adds ``alpha / 2 * sum(weights**2) / rows`` to the mean loss of a batch, `rows` being those of a whole batch, or
        their mean weight where rows have weights. Biases are left alone.
    batch_size : int or "auto"
        Rows of a step; "auto" is the smaller of 200 and all rows.
    learning_rate : {"constant", "invscaling", "adaptive"} or Schedule
        The strings act with sgd alone. A schedule of `fastopt.schedules` takes the place of `learning_rate_init`, with
        every rule; a `ReduceOnPlateau` is told the training loss after each epoch.
    learning_rate_init : float
        0.001 suits sgd and the family of adam; adadelta wants 1.0, lion 0.0001.
    power_t : float
        With "invscaling", the learning rate after t rows is ``learning_rate_init / (t + 1)**power_t``.
    max_iter : int
        Epochs at most.
    shuffle : bool
        Visit the rows in a new order each epoch.
    random_state : int, RandomState or None
        Of the initial weights, the order of the rows and the share that is held out.
    tol : float
        An epoch is better if the loss falls by more than `tol`, or with early stopping if the score rises by it.
    verbose : bool
        Print the loss of each epoch.
    warm_start : bool
        Let `fit` go on where the last fit stood, moments of the rule included.
    momentum : float
        Of sgd.
    nesterovs_momentum : bool
        Of sgd.
    early_stopping : bool
        Hold rows out, end when their score is no longer better, and keep the weights of the best epoch. Of classes the
        share is the same among the rows held out.
    validation_fraction : float
        The share of the rows that early stopping holds out, unless `fit` is given such rows.
    beta_1, beta_2, epsilon : float
        Of adam, adamw, radam, nadam and adamax.
    n_iter_no_change : int
        Training ends after more than so many epochs in a row that are not better.
    class_weight : dict, "balanced" or None
        Weights by label, of rows that are trained on or held out; "balanced" gives each class the same total. None
        for several labels a row.
    dropout : float
        The share of the outputs of each hidden layer that a step drops.
    batch_norm : bool
        Normalize what enters the activation of each hidden layer, by `nn.BatchNorm`.
    standardize : bool
        Center the columns of X and divide them by their deviations in the first fit, in the network's first layer.
    init : str or None
        How the weights start, see `nn.Dense`: Glorot's rule, as in scikit-learn; None for the default there.
    solver_options : dict or None
        Options of the rule in `fastopt.optim` besides, such as ``{"weight_decay": 0.01}`` or ``{"max_norm": 1.0}``.
    dtype : {"float32", "float64"}
        What the network computes in.

    Attributes
    ----------
    net_ : nn.Sequential
        The network: to save, fold, or serve without scikit-learn. Its outputs are those of `decision_function`, as
        columns.
    classes_ : ndarray, shape (n_classes,)
        The labels in ascending order; of several labels a row, the columns' numbers.
    coefs_, intercepts_ : list of ndarray
        Weights (in, out) and biases of the dense layers, views of the network's own.
    n_iter_ : int
        Epochs of the last fit.
    t_ : int
        Rows seen in all.
    loss_curve_, loss_, best_loss_ : list of float, float, float or None
        Training loss by epoch, penalty included, its last and its least; the latter None with early stopping.
    validation_scores_, best_validation_score_ : list of float, float, or None
        Accuracy on the rows held out by epoch, and its best; None without early stopping.
    n_layers_, n_outputs_, out_activation_ : int, int, str
        Input and output layer included; outputs; "logistic" or "softmax".
    n_features_in_, feature_names_in_
        Columns of X in the first fit; names where it was a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.estimators import MLPClassifier
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> mlp = MLPClassifier(16, "tanh", learning_rate_init=0.02, random_state=0)
    >>> mlp.fit(X, ["same", "differ", "differ", "same"]).predict(X)
    array(['same', 'differ', 'differ', 'same'], dtype='<U6')
    >>> mlp.predict_proba(X).shape
    (4, 2)
    """

    _y_numeric = False

    def __init__(
        self,
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
        class_weight=None,
        dropout=0.0,
        batch_norm=False,
        standardize=False,
        init="glorot",
        solver_options=None,
        dtype="float32",
    ):
        self._keep(locals())

    def _targets_of(self, y, weights, classes):
        return class_targets(y, classes)

    def _class_weights(self, targets, codes, weights, incremental):
        if self.class_weight is None:
            return None
        if isinstance(targets, Indicators):
            raise ValueError(f"class_weight: expected None for several labels a row, got {self.class_weight!r}")
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight: expected a dict or None for partial_fit, which does not see all rows, got 'balanced'"
            )
        return class_weights(self.class_weight, targets.classes, codes, weights)

    def _tell(self, epochs):
        super()._tell(epochs)
        self.classes_ = self._targets.classes

    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None, sample_weight_val=None):
        """Train the network.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
            Sparse rows become dense: they take n * n_features numbers of the network's dtype.
        y : array_like, shape (n,) or (n, n_labels)
            Labels, text or numbers; or 0 and 1 for each of several labels.
        sample_weight : array_like, shape (n,), optional
            At least 0; a batch's loss is divided by the weights of its rows.
        X_val, y_val, sample_weight_val : array_like, optional
            Rows to score with early stopping, instead of a share of X.

        Returns
        -------
        MLPClassifier
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
        return self._fit(X, labels_apart(y), sample_weight, (X_val, labels_apart(y_val), sample_weight_val))

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch, going on where the network stands.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like, shape (n_classes,), optional
            All labels there will be; the first call needs them.

        Returns
        -------
        MLPClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As `fit`; or a label that is none of the classes.
        """
        first = not hasattr(self, "net_")
        if first and classes is None:
            raise ValueError("classes: expected all labels there will be in the first call of partial_fit, got None")
        if not first and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes: expected {self.classes_.tolist()}, as in the first call, got {list(classes)}")
        return self._fit(X, labels_apart(y), sample_weight, classes=classes, incremental=True)

    def decision_function(self, X):
        """Logits: of the upper of two classes (n,), else (n, n_outputs).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
        """
        output = self._output(X)
        return output[:, 0] if self._targets.two else output

    def _columns(self, X) -> np.ndarray:
        """What the network makes of X, a column for each class, also of two."""
        output = self._output(X)
        return np.column_stack([-output, output]) if self._targets.two else output

    def predict_proba(self, X):
        """The probability of each class (n, n_classes), two columns for two; of several labels a row, of each label.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
        """
        output = self._columns(X)
        return core.activation(output, self._targets.link, output)

    def predict_log_proba(self, X):
        """The logarithm of `predict_proba`, also where that is 0 to rounding.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
        """
        output = self._columns(X)
        return log_softmax(output, axis=1) if self._targets.link == "softmax" else log_expit(output)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
