"""The rules: a table of defaults, the moments kept, and how options reach the kernel."""

from fastopt.optim.optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant.

    Parameters
    ----------
    params : iterable of ndarray, or of dict
        float32 or float64 arrays, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float
    momentum : float
        0 keeps no moments.
    dampening : float
        Share of the gradient left out of the momentum after a parameter's first step.
    weight_decay : float
        L2 penalty, added to the gradient.
    nesterov : bool
        Step along ``g + momentum * buffer``; needs momentum and no dampening.
    maximize : bool
        Climb instead of descend.

    Notes
    -----
    ``buffer = momentum * buffer + (1 - dampening) * g``, ``param -= lr * buffer`` (Polyak 1964;
    Nesterov 1983 in the form of Sutskever et al. 2013, gradient taken at the parameter).

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> fo.optim.SGD([w], lr=0.5).step([np.array([2.0, 2.0])])
    >>> w
    array([0., 1.])
    """

    defaults = {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
    }

    def __init__(
        self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, *, nesterov=False, maximize=False
    ):
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def _kernel(self):
        if any(group["momentum"] for group in self.param_groups):
            return "momentum", ("momentum_buffer",)
        return "sgd", ()

    def _check(self, group):
        super()._check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("nesterov: expected momentum above 0 and dampening 0")
        if group["momentum"] and getattr(self, "_rule", "momentum") == "sgd":
            raise ValueError("momentum: this optimizer was made without; make a new one with momentum")


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), optionally with AMSGrad (Reddi et al. 2018).

    Parameters
    ----------
    params : iterable of ndarray, or of dict
        float32 or float64 arrays, updated in place; or groups ``{"params": [...], "lr": ...}``.
    lr : float
    betas : (float, float)
        Decay of the first and the second moment.
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        L2 penalty, added to the gradient.
    amsgrad : bool
        Divide by the root of the largest second moment so far.
    maximize : bool
        Climb instead of descend.
    eps_inside_sqrt : bool
        Add `eps` under the root instead.

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

    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "eps_inside_sqrt": False,
    }

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        *,
        amsgrad=False,
        maximize=False,
        eps_inside_sqrt=False,
    ):
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_inside_sqrt=eps_inside_sqrt,
        )

    def _kernel(self):
        flags = {bool(group["amsgrad"]) for group in self.param_groups}
        if len(flags) > 1:
            raise ValueError("amsgrad: expected the same in every group")
        if flags.pop():
            return "amsgrad", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return "adam", ("exp_avg", "exp_avg_sq")

    def _check(self, group):
        super()._check(group)
        if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {group['betas']!r}")
        if hasattr(self, "_rule") and bool(group["amsgrad"]) != (self._rule == "amsgrad"):
            raise ValueError("amsgrad: cannot be changed after construction; make a new optimizer")

    def _options(self, group):
        beta1, beta2 = group["betas"]
        names = ("lr", "eps", "weight_decay", "maximize", "eps_inside_sqrt")
        return {**{name: group[name] for name in names}, "beta1": beta1, "beta2": beta2}
