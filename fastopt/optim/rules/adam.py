"""Adam and its family: a first moment over the root of a second, both corrected for their start at zero.

Adam, AdamW and RAdam are one formula with other constants; NAdam and Adamax have formulas of their own.
"""

from fastopt.optim.optimizer import Optimizer


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), optionally with AMSGrad (Reddi, Kale & Kumar 2018).

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    betas : (float, float)
        Decay of the first and the second moment; schedules are taken too.
    eps : float or Schedule
        Added to the root of the second moment.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    amsgrad : bool
        Divide by the root of the largest second moment so far.
    maximize : bool
        Climb instead of descend.
    decoupled_weight_decay : bool
        Shrink the parameter by ``lr * weight_decay`` instead: AdamW.
    eps_inside_sqrt : bool
        Add `eps` under the root instead.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``param -= lr * m_hat / (sqrt(v_hat) + eps)``, with bias-corrected moments.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.Adam([w], lr=0.1).step([np.array([5.0])])
    >>> w.round(6)
    array([0.9])
    """

    _rule = "adam"

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        amsgrad=False,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        eps_inside_sqrt=False,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        if group["amsgrad"]:
            return "amsgrad", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return "adam", ("exp_avg", "exp_avg_sq")


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    betas : (float, float)
        Decay of the first and the second moment; schedules are taken too.
    eps : float or Schedule
        Added to the root of the second moment.
    weight_decay : float or Schedule
        Before the step the parameter shrinks by ``lr * weight_decay``.
    amsgrad : bool
        Divide by the root of the largest second moment so far.
    maximize : bool
        Climb instead of descend.
    eps_inside_sqrt : bool
        Add `eps` under the root instead.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.AdamW([w], lr=0.1, weight_decay=0.5).step([np.array([0.0])])
    >>> w
    array([0.95])
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        *,
        maximize=False,
        eps_inside_sqrt=False,
        **shared,
    ):
        Optimizer.__init__(self, params, locals(), **shared)

    def _decoupled(self, group):
        return True


class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020): no division until the second moment can be trusted.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    betas : (float, float)
        Decay of the first and the second moment; schedules are taken too.
    eps : float or Schedule
        Added to the root of the second moment.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    decoupled_weight_decay : bool
        Shrink the parameter by ``lr * weight_decay`` instead.
    maximize : bool
        Climb instead of descend.
    rectify_threshold : float
        Length of the average from which on steps are divided: 5 in common practice, 4 in the paper.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.RAdam([w], lr=0.1).step([np.array([5.0])])  # not divided yet
    >>> w.round(6)
    array([0.5])
    """

    _rule = "radam"

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        *,
        maximize=False,
        rectify_threshold=5.0,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        return "adam", ("exp_avg", "exp_avg_sq")


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016), in torch's form.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    betas : (float, float)
        Decay of the first and the second moment; schedules are taken too.
    eps : float or Schedule
        Added to the root of the second moment.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    momentum_decay : float or Schedule
        How fast the momentum grows to its full size.
    decoupled_weight_decay : bool
        Shrink the parameter by ``lr * weight_decay`` instead.
    maximize : bool
        Climb instead of descend.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)``; with M(t) the product of all mu up to t,
    ``param -= lr * ((1 - mu(t)) / (1 - M(t)) * g + mu(t+1) / (1 - M(t+1)) * m) / (sqrt(v_hat) + eps)``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.NAdam([w], lr=0.1, betas=(0.0, 0.999)).step([np.array([5.0])])
    >>> w.round(6)
    array([0.9])
    """

    _rule = "nadam"

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        momentum_decay=4e-3,
        decoupled_weight_decay=False,
        *,
        maximize=False,
        **shared,
    ):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        return "nadam", ("exp_avg", "exp_avg_sq")


class Adamax(Optimizer):
    """Adamax (Kingma & Ba 2015, section 7.1): Adam over the decaying maximum of the gradient.

    Parameters
    ----------
    params : iterable of arrays, or of dict
        float32 or float64, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float or Schedule
    betas : (float, float)
        Decay of the first moment and of the maximum; schedules are taken too.
    eps : float or Schedule
        Added to the magnitude of the gradient.
    weight_decay : float or Schedule
        L2 penalty, added to the gradient.
    maximize : bool
        Climb instead of descend.
    **shared
        max_norm, clip_value, check_finite, accumulate, ema_decay: see `Optimizer`.

    Notes
    -----
    ``u = max(beta2 * u, abs(g) + eps)``, ``param -= lr * m_hat / u``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0])
    >>> fo.optim.Adamax([w], lr=0.1).step([np.array([5.0])])
    >>> w.round(6)
    array([0.9])
    """

    _rule = "adamax"

    def __init__(self, params, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, *, maximize=False, **shared):
        super().__init__(params, locals(), **shared)

    def _formula(self, group):
        return "adamax", ("exp_avg", "exp_inf")
