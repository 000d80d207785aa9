"""What fastopt computes, in NumPy and float64, one formula a function.

The oracle of every test: slow, plain, without checks. The tables at the end
(ACTIVATIONS, LOSSES, RULES) are what the tests are parametrised over: a member
added there is tested by every topic that knows its kind.
"""

import numpy as np
from scipy.special import erfc

# ---------------------------------------------------------------- activations and their slopes


def identity(z):
    return z


def relu(z):
    return np.where(z < 0, 0.0, z)


def leaky_relu(z):
    return np.where(z < 0, 0.01 * z, z)


def tanh(z):
    return np.tanh(z)


def sigmoid(z):
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1 + e)


def gelu(z):
    return z * normal_cdf(z)


def silu(z):
    return z * sigmoid(z)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def normal_cdf(z):
    return 0.5 * erfc(-z / np.sqrt(2))


def normal_density(z):
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def identity_slope(z):
    return np.ones_like(z)


def relu_slope(z):
    return np.where(z > 0, 1.0, 0.0)


def leaky_relu_slope(z):
    return np.where(z > 0, 1.0, 0.01)


def tanh_slope(z):
    return 1 - np.tanh(z) ** 2


def sigmoid_slope(z):
    return sigmoid(z) * sigmoid(-z)


def gelu_slope(z):
    return normal_cdf(z) + z * normal_density(z)


def silu_slope(z):
    return sigmoid(z) * (1 + z * sigmoid(-z))


# ---------------------------------------------------------------- dense


def dense(x, weight, bias=None, activation="identity"):
    """x (n, in), weight (out, in), bias (out,) -> y (n, out)"""
    z = x @ weight.T + (0 if bias is None else bias)
    return ACTIVATIONS[activation](z)


def activation_backward(dy, z, activation):
    """dZ = dY * phi'(Z); softmax: dZ = Y * (dY - sum of dY * Y)"""
    if activation == "softmax":
        y = softmax(z)
        return y * (dy - (dy * y).sum(axis=1, keepdims=True))
    return dy * SLOPES[activation](z)


def dense_backward(dy, x, weight, z, activation="identity"):
    """dX = dZ W, dW = dZ^T X, db = sum of dZ's rows"""
    dz = activation_backward(dy, z, activation)
    return dz @ weight, dz.T @ x, dz.sum(axis=0)


# ---------------------------------------------------------------- standardisation


def standardize(x, mean, scale):
    return (x - mean) * scale


def batch_statistics(x):
    return x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).mean(axis=0)


# ---------------------------------------------------------------- losses: (loss, gradient)


def cross_entropy(logits, targets, sample_weight=None):
    """targets: classes (n,) or probabilities (n, k)"""
    n, k = logits.shape
    if targets.ndim == 1:
        targets = np.eye(k)[targets]
    share = row_share(sample_weight, n)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    rows = (targets * (log_sum - logits)).sum(axis=1)
    grad = softmax(logits) * targets.sum(axis=1, keepdims=True) - targets
    return (rows * share).sum(), grad * share[:, None]


def mse(prediction, targets, sample_weight=None):
    n, k = prediction.shape
    share = row_share(sample_weight, n)
    error = prediction - targets
    return ((error**2).mean(axis=1) * share).sum(), 2 / k * error * share[:, None]


def row_share(sample_weight, n):
    """What each row counts for in the mean."""
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, float)
    return weight / weight.sum()


# ---------------------------------------------------------------- optimizers: param, grad, state -> param


def sgd(param, grad, state, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    g = (-grad if maximize else grad) + weight_decay * param
    if momentum:
        first = "buffer" not in state
        state["buffer"] = g if first else momentum * state["buffer"] + (1 - dampening) * g
        g = g + momentum * state["buffer"] if nesterov else state["buffer"]
    return param - lr * g


def adam(
    param,
    grad,
    state,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    eps_inside_sqrt=False,
):
    g = (-grad if maximize else grad) + weight_decay * param
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    if amsgrad:
        v = state["top"] = np.maximum(state.get("top", 0), v)
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    root = np.sqrt(v_hat + eps) if eps_inside_sqrt else np.sqrt(v_hat) + eps
    return param - lr * m_hat / root


# ---------------------------------------------------------------- networks


def forward(layers, x):
    """Output of a list of fastopt layers, from their arrays in float64."""
    for layer in layers:
        x = LAYERS[type(layer).__name__](layer, x)
    return x


def dense_layer(layer, x):
    bias = None if layer.bias is None else layer.bias.astype(float)
    return dense(x, layer.weight.astype(float), bias, layer.activation)


def standardize_layer(layer, x):
    return standardize(x, layer.mean.astype(float), layer.scale.astype(float))


def residual_layer(layer, x):
    return x + forward(layer.layers, x)


# ---------------------------------------------------------------- the lists that tests run through

ACTIVATIONS = {f.__name__: f for f in (identity, relu, leaky_relu, tanh, sigmoid, gelu, silu, softmax)}
SLOPES = {
    name: globals()[f"{name}_slope"] for name in ACTIVATIONS if name != "softmax"
}  # softmax has no elementwise slope
LOSSES = {f.__name__: f for f in (cross_entropy, mse)}
RULES = {"SGD": sgd, "Adam": adam}
LAYERS = {"Dense": dense_layer, "Standardize": standardize_layer, "Residual": residual_layer}
DTYPES = (np.float32, np.float64)


def gamma(k, dtype):
    """Higham's bound on the relative error of a sum of k products in this dtype."""
    u = np.finfo(dtype).eps / 2
    return k * u / (1 - k * u)
