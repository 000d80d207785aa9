"""The rules: each is a signature, which is its row of defaults, and the formula its options choose.

`_formula` names one of the kernel's formulas and, slot by slot, the moments it keeps, by torch's
names. The constants of a rule stand in `prepare` of _kernels/optim.pxi, the formulas below it.
"""

from fastopt.optim.optimizer import Optimizer
from fastopt.optim.options import is_zero


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
        _check_nesterov(group["nesterov"], (False, True, "interim"))
        if group["nesterov"] and (is_zero(group["momentum"]) or not is_zero(group["dampening"])):
            raise ValueError("nesterov: expected momentum above 0 and dampening 0")
        if is_zero(group["momentum"]):
            return "plain", ()
        return "nesterov" if group["nesterov"] is True else "momentum", ("momentum_buffer",)


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
        _check_nesterov(group["nesterov"], (False, "interim"))
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


def _check_nesterov(value, allowed):
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        raise ValueError(f"nesterov: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
