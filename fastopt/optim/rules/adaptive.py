"""Rules that divide the gradient by the root of its squares: Adagrad, RMSprop, Adadelta.

Their moments start at zero and are not corrected for it, which is what parts them from Adam's family.
"""

from fastopt.optim.optimizer import Optimizer
from fastopt.optim.options import check_nesterov, is_zero


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011): each element's step shrinks with the squares it has seen.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    lr_decay : float or Schedule
        Divides `lr` by ``1 + (t - 1) * lr_decay``.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    initial_accumulator_value : float
        What the sum of squares starts with.
    eps : float or Schedule
        Added to the root of the sum.
    maximize : bool
        Climb instead of descend.
    eps_inside_sqrt : bool
        Add `eps` under the root instead.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``sum += g**2``, ``param -= lr * g / (sqrt(sum) + eps)``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0, 1.0])
    >>> fo.optim.Adagrad([w], lr=0.5).step([np.array([0.01, 100.0])])
    >>> w.round(6)
    array([0.5, 0.5])
    """

    _rule = "adagrad"

    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0.0,
        weight_decay=0.0,
        initial_accumulator_value=0.0,
        eps=1e-10,
        *,
        maximize=False,
        eps_inside_sqrt=False,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        return "scaled", ("sum",)

    def _new_array(self, k, name, group):
        array = super()._new_array(k, name, group)
        if name == "sum":
            array[...] = group["initial_accumulator_value"]
        return array


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012): the gradient over the root of its running mean square.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    alpha : float or Schedule
        Decay of the mean square.
    eps : float or Schedule
        Added to the root.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    momentum : float or Schedule
        Of the scaled gradient.
    centered : bool
        Subtract the square of the running mean: divide by the standard deviation.
    maximize : bool
        Climb instead of descend.
    nesterov : False or "interim"
        Take the gradient at ``param + momentum * velocity``, see `interim_point`; needs momentum.
    eps_inside_sqrt : bool
        Add `eps` under the root instead.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``s = alpha * s + (1 - alpha) * g**2``, ``param -= lr * g / (sqrt(s) + eps)``; with momentum
    ``b = momentum * b + g / (sqrt(s) + eps)``, ``param -= lr * b``; with ``nesterov="interim"``
    ``v = momentum * v - lr * g / (sqrt(s) + eps)``, ``param += v``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.RMSprop([w], lr=0.05, alpha=0.75).step([np.array([4.0])])
    >>> w.round(6)
    array([0.9])
    """

    _rule = "rmsprop"

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
        *,
        maximize=False,
        nesterov=False,
        eps_inside_sqrt=False,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        check_nesterov(group["nesterov"], (False, "interim"))
        if group["nesterov"] and is_zero(group["momentum"]):
            raise ValueError("nesterov: expected momentum above 0")
        mean = "grad_avg" if group["centered"] else None
        if is_zero(group["momentum"]):
            return "scaled_centered" if mean else "scaled", ("square_avg", mean)
        return "scaled_centered_momentum" if mean else "scaled_momentum", ("square_avg", mean, "momentum_buffer")


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): steps in the units of the parameter, without a learning rate to choose.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
        1 in the paper.
    rho : float or Schedule
        Decay of both mean squares.
    eps : float or Schedule
        Added under both roots.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    maximize : bool
        Climb instead of descend.
    eps_inside_sqrt : bool
        False adds `eps` to both roots instead.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``s = rho * s + (1 - rho) * g**2``, ``d = sqrt(a + eps) / sqrt(s + eps) * g``, or
    ``d = (sqrt(a) + eps) / (sqrt(s) + eps) * g``, then ``a = rho * a + (1 - rho) * d**2``, ``param -= lr * d``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.Adadelta([w], rho=0.0, eps=0.01).step([np.array([1.0])])
    >>> w.round(3)
    array([0.9])
    """

    _rule = "adadelta"

    def __init__(
        self,
        params,
        lr=1.0,
        rho=0.9,
        eps=1e-6,
        weight_decay=0.0,
        *,
        maximize=False,
        eps_inside_sqrt=True,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        return "adadelta", ("square_avg", "acc_delta")
