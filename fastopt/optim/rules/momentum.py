"""Rules whose state is a momentum: SGD and Lion.

No step is divided by the size of the gradients: what a parameter moves follows from `lr`, the gradient and one moment.
"""

from fastopt.optim.optimizer import Optimizer
from fastopt.optim.options import check_nesterov, is_zero


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variants.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    momentum : float or Schedule
        0 keeps no velocity. A velocity starts with the first gradient it sees.
    dampening : float or Schedule
        Share of the gradient left out of the velocity after its first step.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    nesterov : bool or "interim"
        True: step along ``g + momentum * velocity``, with the gradient taken at the parameter.
        "interim": the gradient is taken at ``param + momentum * velocity``, see `interim_point`.
        Both need momentum and no dampening.
    maximize : bool
        Climb instead of descend.
    lr_in_velocity : bool
        ``velocity = momentum * velocity - lr * g``, ``param += velocity``: as `lr` changes, what has been
        gathered keeps the `lr` it was gathered with. Always so under ``nesterov="interim"``.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``velocity = momentum * velocity + (1 - dampening) * g``, ``param -= lr * velocity`` (Polyak 1964;
    Nesterov 1983 in the form of Sutskever et al. 2013).

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> fo.optim.SGD([w], lr=0.5).step([np.array([2.0, 2.0])])
    >>> w
    array([0., 1.])
    """

    _rule = "sgd"

    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        *,
        maximize=False,
        lr_in_velocity=False,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        check_nesterov(group["nesterov"], (False, True, "interim"))
        if group["nesterov"] and (is_zero(group["momentum"]) or not is_zero(group["dampening"])):
            raise ValueError("nesterov: expected momentum above 0 and dampening 0")
        if is_zero(group["momentum"]):
            return "plain", ()
        return "nesterov" if group["nesterov"] is True else "momentum", ("momentum_buffer",)


class Lion(Optimizer):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
        Every element moves by this much: take a third to a tenth of Adam's.
    betas : (float, float)
        Share of the momentum in the step, and its decay; schedules are taken too.
    weight_decay : float or Schedule
        Before the step the parameter shrinks by ``lr * weight_decay``.
    maximize : bool
        Climb instead of descend.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``param -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * param)``,
    ``m = beta2 * m + (1 - beta2) * g``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0, 1.0])
    >>> fo.optim.Lion([w], lr=0.1).step([np.array([5.0, -0.01])])
    >>> w
    array([0.9, 1.1])
    """

    _rule = "lion"

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False, **shared):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        return "lion", ("exp_avg",)

    def _decoupled(self, group):
        return True
