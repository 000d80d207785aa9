"""What fastopt computes, in NumPy and float64, one formula a function.

The oracle of every test: slow, plain, without checks. The tables at the end
(ACTIVATIONS, LOSSES, RULES with OPTIONS) are what the tests are parametrized over: a member
added there is tested by every topic that knows its kind.
"""

import functools
import itertools
import math

import numpy as np
from scipy.special import erfc

# ---------------------------------------------------------------- activations and their derivatives


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


def identity_derivative(z):
    return np.ones_like(z)


def relu_derivative(z):
    return np.where(z > 0, 1.0, 0.0)


def leaky_relu_derivative(z):
    return np.where(z > 0, 1.0, 0.01)


def tanh_derivative(z):
    return 1 - np.tanh(z) ** 2


def sigmoid_derivative(z):
    return sigmoid(z) * sigmoid(-z)


def gelu_derivative(z):
    return normal_cdf(z) + z * normal_density(z)


def silu_derivative(z):
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
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))
    return dy * DERIVATIVES[activation](z)


def dense_backward(dy, x, weight, z, activation="identity"):
    """dX = dZ W, dW = dZ^T X, db = sum of dZ's rows"""
    dz = activation_backward(dy, z, activation)
    return dz @ weight, dz.T @ x, dz.sum(axis=0)


def grouped_dense(x, weight, bias=None, groups=1, activation="identity"):
    """x (n, in), weight (out, in / groups), bias (out,) -> y (n, out), group by group"""
    parts = zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
    z = np.concatenate([a @ w.T for a, w in parts], axis=1) + (0 if bias is None else bias)
    return ACTIVATIONS[activation](z)


def grouped_dense_backward(dy, x, weight, z, groups=1, activation="identity"):
    """dX, dW, db, group by group"""
    dz = activation_backward(dy, z, activation)
    parts = list(zip(*(np.split(a, groups, axis=1) for a in (dz, x)), np.split(weight, groups), strict=True))
    dx, dw = [d @ w for d, _, w in parts], [d.T @ a for d, a, _ in parts]
    return np.concatenate(dx, axis=1), np.concatenate(dw), dz.sum(axis=0)


def maxout(x, pieces=2):
    """x (n, out * pieces) -> y (n, out); NaN wins"""
    return x.reshape(len(x), x.shape[1] // pieces, pieces).max(axis=2)


def maxout_backward(dy, x, pieces=2):
    """dX = dY at the first of the largest pieces, 0 elsewhere"""
    dx = np.zeros((*dy.shape, pieces), dy.dtype)
    if dx.size:
        np.put_along_axis(dx, x.reshape(dx.shape).argmax(axis=2)[..., None], dy[..., None], axis=2)
    return dx.reshape(x.shape)


# ---------------------------------------------------------------- pooling


def axis_windows(n, kernel, stride, padding, ceil_mode):
    """Of each window along an axis of n pixels: the pixels it holds, and its length within the padded axis."""
    starts = range(-padding, n + padding - kernel + (stride if ceil_mode else 1), stride)
    return [(slice(max(a, 0), min(a + kernel, n)), min(a + kernel, n + padding) - a) for a in starts if a < n]


def windows(shape, kernel_size, stride=None, padding=0, ceil_mode=False):
    """The windows of images (n, h, w, c) as rows of windows: each its rows and columns, and its size with padding."""
    stride = kernel_size if stride is None else stride
    pairs = map(pair, (kernel_size, stride, padding))
    rows, columns = (axis_windows(n, *axis, ceil_mode) for n, *axis in zip(shape[1:3], *pairs, strict=True))
    return [[(y, x, height * width) for x, width in columns] for y, height in rows]


def max_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    """x (n, h, w, c); NaN wins"""
    found = windows(x.shape, kernel_size, stride, padding, ceil_mode)
    return np.stack([np.stack([x[:, b, a].max(axis=(1, 2)) for b, a, _ in line], 1) for line in found], 1)


def max_pool2d_backward(dy, x, kernel_size, stride=None, padding=0, ceil_mode=False):
    """dX += dY at the first largest pixel of each window, row by row"""
    dx = np.zeros_like(x)
    images, channels = np.indices((len(x), x.shape[3]))
    for i, line in enumerate(windows(x.shape, kernel_size, stride, padding, ceil_mode)):
        for j, (b, a, _) in enumerate(line):
            wide = a.stop - a.start
            pixels = x[:, b, a].reshape(len(x), (b.stop - b.start) * wide, x.shape[3])
            rows, columns = np.divmod(pixels.argmax(axis=1), wide)
            dx[images, b.start + rows, a.start + columns, channels] += dy[:, i, j]
    return dx


def counts(found, count_include_pad):
    """What averages divide by: sizes within the padded image, or real pixels."""
    real = [[(b.stop - b.start) * (a.stop - a.start) for b, a, _ in line] for line in found]
    return np.array([[size for _, _, size in line] for line in found] if count_include_pad else real)[..., None]


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    found = windows(x.shape, kernel_size, stride, padding, ceil_mode)
    sums = np.stack([np.stack([x[:, b, a].sum(axis=(1, 2)) for b, a, _ in line], 1) for line in found], 1)
    return sums / counts(found, count_include_pad)


def avg_pool2d_backward(dy, shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """dX += dY / count at every pixel of each window"""
    found, dx = windows(shape, kernel_size, stride, padding, ceil_mode), np.zeros(shape)
    share = dy / counts(found, count_include_pad)
    for i, line in enumerate(found):
        for j, (b, a, _) in enumerate(line):
            dx[:, b, a] += share[:, i, j, None, None]
    return dx


# ---------------------------------------------------------------- convolution
# Y[n,i,j,k] = phi(b_k + sum of W[k,r,s,c] X[n, i st - p + r dil, j st - p + s dil, c]), c in the group of k


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation="identity"):
    """x (n, h, w, in), weight (out, kh, kw, in / groups), bias (out,) -> y (n, oh, ow, out), tap by tap"""
    padded, filters, taps = conv2d_taps(x, weight, stride, padding, dilation, groups)
    z = sum(np.einsum("nijgc,gkc->nijgk", padded[read], filters[:, :, r, s]) for r, s, read in taps)
    z = z.reshape(*z.shape[:3], len(weight)) + (0 if bias is None else bias)
    return ACTIVATIONS[activation](z)


def conv2d_backward(dy, x, weight, z, stride=1, padding=0, dilation=1, groups=1, activation="identity"):
    """dX[what a tap reads] += dZ W[tap], dW[tap] = sum of dZ X[what it reads], db = sum of dZ"""
    dz = activation_backward(dy, z, activation)
    padded, filters, taps = conv2d_taps(x, weight, stride, padding, dilation, groups)
    dpadded, dfilters = np.zeros(padded.shape), np.zeros(filters.shape)
    split = dz.reshape(*dz.shape[:3], groups, -1)
    for r, s, read in taps:
        dpadded[read] += np.einsum("nijgk,gkc->nijgc", split, filters[:, :, r, s])
        dfilters[:, :, r, s] = np.einsum("nijgk,nijgc->gkc", split, padded[read])
    (top, _), (left, _) = conv2d_padding(padding, weight, dilation)
    dx = dpadded[:, top : top + x.shape[1], left : left + x.shape[2]].reshape(x.shape)
    return dx, dfilters.reshape(weight.shape), dz.sum(axis=(0, 1, 2))


def conv2d_taps(x, weight, stride, padding, dilation, groups):
    """Padded images (n, h, w, groups, c), filters (groups, out, kh, kw, c); each tap's row, column and pixels"""
    borders, reads = conv2d_padding(padding, weight, dilation), []
    for axis, border in enumerate(borders):
        size, k = x.shape[1 + axis] + sum(border), weight.shape[1 + axis]
        st, dil = pair(stride)[axis], pair(dilation)[axis]
        outputs = (size - dil * (k - 1) - 1) // st + 1
        reads.append([slice(r * dil, r * dil + (outputs - 1) * st + 1, st) for r in range(k)])
    padded = np.pad(x, [(0, 0), *borders, (0, 0)])
    padded = padded.reshape(*padded.shape[:3], groups, -1)
    filters = weight.reshape(groups, -1, *weight.shape[1:])
    rows, columns = map(enumerate, reads)
    taps = [(r, s, np.s_[:, of_r, of_s]) for (r, of_r), (s, of_s) in itertools.product(rows, columns)]
    return padded, filters, taps


def conv2d_padding(padding, weight, dilation):
    """(top, bottom), (left, right); of "same" the smaller half comes first"""
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[1:3], strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    return [(p, p) for p in pair(0 if padding == "valid" else padding)]


def pair(value):
    """(of rows, of columns)"""
    return value if isinstance(value, tuple) else (value, value)


# ---------------------------------------------------------------- standardization


def standardize(x, mean, scale):
    return (x - mean) * scale


def batch_statistics(x, correction=0):
    """of rows (n, c), or of the channels of images (n, c, h, w)"""
    axes = (0,) if x.ndim == 2 else (0, 2, 3)
    mean, elements = x.mean(axis=axes, keepdims=True), np.prod([x.shape[axis] for axis in axes])
    return mean.ravel(), ((x - mean) ** 2).sum(axis=axes) / (elements - correction)


# ---------------------------------------------------------------- batch normalization


def batch_norm_inference(x, gamma, beta, mean, var, eps=1e-5, activation="identity"):
    y = (x - mean) / np.sqrt(var + eps) * (1 if gamma is None else gamma) + (0 if beta is None else beta)
    return ACTIVATIONS[activation](y)


def batch_norm(x, gamma=None, beta=None, eps=1e-5, activation="identity"):
    mean, var = batch_statistics(x)
    return batch_norm_inference(x, gamma, beta, mean, var, eps, activation), mean, var


def batch_norm_backward(dy, x, gamma, mean, var, z=None, eps=1e-5, activation="identity"):
    """dX^ = dZ gamma, dX = (dX^ - mean(dX^) - X^ mean(dX^ X^)) / sigma, dgamma = sum dZ X^, dbeta = sum dZ"""
    dz, sigma = activation_backward(dy, z, activation), np.sqrt(var + eps)
    normal, d = (x - mean) / sigma, dz * (1 if gamma is None else gamma)
    dx = (d - d.mean(axis=0) - normal * (d * normal).mean(axis=0)) / sigma
    return dx, (dz * normal).sum(axis=0), dz.sum(axis=0)


# ---------------------------------------------------------------- losses: (loss, gradient)


def cross_entropy(logits, targets, sample_weight=None, class_weight=None, label_smoothing=0.0, ignore_index=-100):
    """targets: classes (n,) or probabilities (n, k); class weights divide only where there are classes"""
    n, k = logits.shape
    class_weight = np.ones(k) if class_weight is None else np.asarray(class_weight, float)
    if targets.ndim == 1:  # a row that does not count is one of weight 0
        sample_weight = np.where(targets == ignore_index, 0, 1 if sample_weight is None else sample_weight)
        targets = np.where(targets == ignore_index, 0, targets)
    share = row_share(sample_weight, n, class_weight[targets] if targets.ndim == 1 else np.ones(n))
    if targets.ndim == 1:
        targets = np.eye(k)[targets]
    a = class_weight * (label_smoothing / k + (1 - label_smoothing) * targets)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    rows = (a * (log_sum - logits)).sum(axis=1)
    grad = softmax(logits) * a.sum(axis=1, keepdims=True) - a
    return (rows * share).sum(), grad * share[:, None]


def mse(prediction, targets, sample_weight=None):
    error = prediction - targets
    return mean_of_elements(error**2, 2 * error, sample_weight)


def mae(prediction, targets, sample_weight=None):
    error = prediction - targets
    return mean_of_elements(np.abs(error), np.sign(error), sample_weight)


def huber(prediction, targets, sample_weight=None, delta=1.0):
    error = prediction - targets
    a = np.abs(error)
    value = np.where(a <= delta, 0.5 * error**2, delta * (a - 0.5 * delta))
    return mean_of_elements(value, np.clip(error, -delta, delta), sample_weight)


def binary_cross_entropy(logits, targets, sample_weight=None):
    value = np.logaddexp(0, logits) - targets * logits
    return mean_of_elements(value, sigmoid(logits) - targets, sample_weight)


def mean_of_elements(value, slope, sample_weight):
    n, k = value.shape
    share = row_share(sample_weight, n)
    return (value.mean(axis=1) * share).sum(), slope / k * share[:, None]


def row_share(sample_weight, n, counted=1.0):
    """What each row counts for in the mean."""
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, float)
    total = (weight * counted).sum()
    return weight / total if total else np.zeros(n)


def draw_targets(kind, n, k, seed=0):
    """Targets of n rows and k outputs: classes, probabilities or values."""
    rng = np.random.default_rng((seed, n, k))
    if kind == "classes":
        return rng.integers(0, k, n)
    return rng.normal(0, 3, (n, k)) if kind == "values" else rng.dirichlet(np.ones(k), n)


# ---------------------------------------------------------------- optimizers: param, grad, state -> param
# state is {} at first; a rule keeps its count and its moments there, by torch's names


def sgd(
    param,
    grad,
    state,
    lr=1e-3,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    maximize=False,
    lr_in_velocity=False,
):
    count(state)
    g = penalized(param, grad, weight_decay, maximize)
    if not momentum:
        return param - lr * g
    first = "momentum_buffer" not in state
    old, new = momentum * state.get("momentum_buffer", 0), g if first else (1 - dampening) * g
    if lr_in_velocity or nesterov == "interim":
        v = state["momentum_buffer"] = old - lr * new
        return param + momentum * v - lr * g if nesterov is True else param + v
    buffer = state["momentum_buffer"] = old + new
    return param - lr * (g + momentum * buffer if nesterov else buffer)


def adagrad(
    param,
    grad,
    state,
    lr=1e-2,
    lr_decay=0.0,
    weight_decay=0.0,
    initial_accumulator_value=0.0,
    eps=1e-10,
    maximize=False,
    eps_inside_sqrt=False,
):
    t = count(state)
    g = penalized(param, grad, weight_decay, maximize)
    total = state["sum"] = state.get("sum", initial_accumulator_value) + g**2
    return param - lr / (1 + (t - 1) * lr_decay) * (g / denominator(total, eps, eps_inside_sqrt))


def rmsprop(
    param,
    grad,
    state,
    lr=1e-2,
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    maximize=False,
    nesterov=False,
    eps_inside_sqrt=False,
):
    count(state)
    g = penalized(param, grad, weight_decay, maximize)
    v = mean_square(state, "square_avg", alpha, g)
    if centered:
        mean = average(state, "grad_avg", alpha, g)
        v = np.where(np.isinf(v), v, np.maximum(v - mean**2, 0))
    move = g / denominator(v, eps, eps_inside_sqrt)
    if not momentum:
        return param - lr * move
    old = momentum * state.get("momentum_buffer", 0)
    if nesterov == "interim":
        velocity = state["momentum_buffer"] = old - lr * move
        return param + velocity
    buffer = state["momentum_buffer"] = old + move
    return param - lr * buffer


def adadelta(param, grad, state, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False, eps_inside_sqrt=True):
    count(state)
    g = penalized(param, grad, weight_decay, maximize)
    v, moved = mean_square(state, "square_avg", rho, g), state.get("acc_delta", np.zeros_like(g))
    move = denominator(moved, eps, eps_inside_sqrt) / denominator(v, eps, eps_inside_sqrt) * g
    mean_square(state, "acc_delta", rho, move)
    return param - lr * move


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
    decoupled_weight_decay=False,
    eps_inside_sqrt=False,
):
    t = count(state)
    param, g = decayed(param, grad, lr, weight_decay, maximize, decoupled_weight_decay)
    m, v = average(state, "exp_avg", betas[0], g), mean_square(state, "exp_avg_sq", betas[1], g)
    if amsgrad:
        v = state["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", 0), v)
    return param - lr * (m / (1 - betas[0] ** t)) / denominator(v, eps, eps_inside_sqrt, 1 - betas[1] ** t)


adamw = functools.partial(adam, weight_decay=1e-2, decoupled_weight_decay=True)


def radam(
    param,
    grad,
    state,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    rectify_threshold=5.0,
):
    t = count(state)
    param, g = decayed(param, grad, lr, weight_decay, maximize, decoupled_weight_decay)
    m, v = average(state, "exp_avg", betas[0], g), mean_square(state, "exp_avg_sq", betas[1], g)
    m_hat, correction = m / (1 - betas[0] ** t), 1 - betas[1] ** t
    top = 2 / (1 - betas[1]) - 1
    rho = top - 2 * t * betas[1] ** t / correction
    if rho <= rectify_threshold:
        return param - lr * m_hat
    r = math.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
    return param - lr * r * m_hat * math.sqrt(correction) / (np.sqrt(v) + eps)


def nadam(
    param,
    grad,
    state,
    lr=2e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
    maximize=False,
):
    t = count(state)
    param, g = decayed(param, grad, lr, weight_decay, maximize, decoupled_weight_decay)
    m, v = average(state, "exp_avg", betas[0], g), mean_square(state, "exp_avg_sq", betas[1], g)
    mu, mu_next = (betas[0] * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
    product = state["mu_product"] = state.get("mu_product", 1.0) * mu
    move = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
    return param - lr * move / denominator(v, eps, False, 1 - betas[1] ** t)


def adamax(param, grad, state, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    t = count(state)
    g = penalized(param, grad, weight_decay, maximize)
    m = average(state, "exp_avg", betas[0], g)
    u = state["exp_inf"] = np.maximum(betas[1] * state.get("exp_inf", 0), np.abs(g) + eps)
    return param - lr / (1 - betas[0] ** t) * m / u


def lion(param, grad, state, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    count(state)
    param, g = decayed(param, grad, lr, weight_decay, maximize, decoupled=True)
    c = betas[0] * state.get("exp_avg", 0) + (1 - betas[0]) * g
    average(state, "exp_avg", betas[1], g)
    return param - lr * np.sign(c)


def count(state):
    state["step"] = state.get("step", 0) + 1
    return state["step"]


def average(state, name, decay, value):
    """A moment's running average, 0 at first."""
    state[name] = decay * state.get(name, 0) + (1 - decay) * value
    return state[name]


def mean_square(state, name, decay, value):
    """As `average`, of squares; like torch in an order that does not overflow before the mean does."""
    state[name] = decay * state.get(name, 0) + (1 - decay) * value * value
    return state[name]


def denominator(v, eps, eps_inside_sqrt, correction=1.0):
    """The root of v / correction with eps, likewise."""
    inside, outside = (eps * correction, 0) if eps_inside_sqrt else (0, eps)
    return np.sqrt(v + inside) / math.sqrt(correction) + outside


def penalized(param, grad, weight_decay, maximize):
    """What is descended along: the gradient, -g to climb, with its L2 penalty."""
    g = -grad if maximize else grad
    return g + weight_decay * param if weight_decay else g


def decayed(param, grad, lr, weight_decay, maximize, decoupled):
    """Parameter and gradient: decay acts on the one if decoupled, else on the other."""
    if decoupled:
        return (1 - lr * weight_decay) * param, penalized(param, grad, 0, maximize)
    return param, penalized(param, grad, weight_decay, maximize)


def clip_by_norm(grads, max_norm):
    """The gradients scaled together, and their norm before; torch's form. None takes no part."""
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in grads if g is not None))
    scale = np.minimum(1, max_norm / (norm + 1e-6))
    return [None if g is None else g * scale for g in grads], norm


def clip_by_value(grads, value):
    return [None if g is None else np.clip(g, -value, value) for g in grads]


def mean_of_calls(calls):
    """One gradient a parameter from those of k calls; None counts as zero, None in every call stays None."""
    given = ([g for g in grads if g is not None] for grads in zip(*calls, strict=True))
    return [sum(g.astype(float) for g in grads) / len(calls) if grads else None for grads in given]


# ---------------------------------------------------------------- networks


def forward(layers, x):
    """Output of a list of fastopt layers, from their arrays in float64."""
    for layer in layers:
        x = LAYERS[type(layer).__name__](layer, x)
    return x


def dense_layer(layer, x):
    bias = None if layer.bias is None else layer.bias.astype(float)
    return grouped_dense(x, layer.weight.astype(float), bias, layer.groups, layer.activation)


def maxout_layer(layer, x):
    return maxout(dense_layer(layer, x), layer.pieces)


def standardize_layer(layer, x):
    return standardize(x, layer.mean.astype(float), layer.scale.astype(float))


def batch_norm_layer(layer, x):
    arrays = (getattr(layer, name) for name in ("gamma", "beta", "running_mean", "running_var"))
    arrays = (None if a is None else a.astype(float) for a in arrays)
    return batch_norm_inference(x, *arrays, layer.eps, layer.activation)


def whiten_layer(layer, x):
    return (x - layer.mean.astype(float)) @ layer.weight.astype(float).T


def dropout_layer(layer, x):
    return x


def max_pool2d_layer(layer, x):
    return max_pool2d(x, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)


def avg_pool2d_layer(layer, x):
    return avg_pool2d(x, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad)


def global_avg_pool2d_layer(layer, x):
    return x.mean(axis=(1, 2))


def residual_layer(layer, x):
    return x + forward(layer.layers, x)


# ---------------------------------------------------------------- dropout


def scramble(z):
    """splitmix64 of a Python integer."""
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def draws(n, seed, step=0):
    """The n numbers of 32 bits that dropout compares with rate * 2**32."""
    stream, block, parts = scramble((scramble(seed) + step) % 2**64), 65536, [np.zeros(0, np.uint32)]
    for start in range(0, n, block):
        key = scramble((stream + start // block) % 2**64)
        h = np.arange(min(block, n - start), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(key % 2**32)
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D) ^ np.uint32(key >> 32)
        parts.append((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.concatenate(parts)


def dropout(x, rate, seed, step=0):
    """y = x / (1 - rate) where kept, else 0"""
    kept = draws(x.size, seed, step).reshape(x.shape) >= np.uint32(rate * 2**32)
    return np.where(kept, x * x.dtype.type(1 / (1 - rate)), x.dtype.type(0))


# ---------------------------------------------------------------- augmentation


def moves(n, most, flips, seed, step=0):
    """By how many pixels each of n images moves, down and to the right, and along which axes it is flipped before."""
    stream = scramble((scramble(seed) + step) % 2**64)
    halves = [divmod(scramble((stream + i) % 2**64), 2**32) for i in range(n)]
    shifts = [[(draw * (2 * m + 1) >> 32) - m for draw, m in zip(half, most, strict=True)] for half in halves]
    flipped = [[bool(draw % 2) and flip for draw, flip in zip(half, flips, strict=True)] for half in halves]
    return shifts, flipped


def augment(x, most, flips, seed, step=0):
    """Images x (n, height, width, c), each flipped and then shifted; zeros come in."""
    y, size = np.zeros_like(x), x.shape[1:3]
    for image, moved, shift, flipped in zip(x, y, *moves(len(x), most, flips, seed, step), strict=True):
        image = image[:: -1 if flipped[0] else 1, :: -1 if flipped[1] else 1]
        to = tuple(slice(max(0, by), n + min(0, by)) for by, n in zip(shift, size, strict=True))
        of = tuple(slice(max(0, -by), n + min(0, -by)) for by, n in zip(shift, size, strict=True))
        moved[to] = image[of]
    return y


# ---------------------------------------------------------------- the lists that tests run through

# ---------------------------------------------------------------- generalized linear models


def glm(family, theta, X, y, weight, l2=0.0, offset=0.0, parameter=None):
    """Loss, gradient (k, q) and Hessian (k q, k q) of theta (k, q), whose last column is the intercept if q = d + 1.

    parameter: p, the power of tweedie, or alpha of negative_binomial.
    """
    p = a = GLM_PARAMETERS.get(family) if parameter is None else parameter
    d, (k, q) = X.shape[1], theta.shape
    rows = np.hstack([X, np.ones((len(X), q - d))]).astype(float)
    z = rows @ theta.T + offset
    if family == "multinomial":
        top = z.max(axis=1, keepdims=True)
        p = np.exp(z - top) / np.exp(z - top).sum(axis=1, keepdims=True)
        own = np.eye(k)[np.asarray(y, int)]
        loss = top[:, 0] + np.log(np.exp(z - top).sum(axis=1)) - (z * own).sum(axis=1)
        slope, curvature = p - own, p[:, :, None] * (np.eye(k) - p[:, None, :])
    else:
        z = z[:, 0]
        loss, slope, curvature = {
            "gaussian": lambda: ((z - y) ** 2 / 2, z - y, np.ones_like(z)),
            "binomial": lambda: (np.logaddexp(0, z) - y * z, sigmoid(z) - y, sigmoid(z) * sigmoid(-z)),
            "poisson": lambda: (np.exp(z) - y * z, np.exp(z) - y, np.exp(z)),
            "gamma": lambda: (y * np.exp(-z) + z, 1 - y * np.exp(-z), y * np.exp(-z)),
            "gamma_inverse": lambda: (y * z - np.log(z), y - 1 / z, 1 / z**2),
            "tweedie": lambda: (
                y * np.exp((1 - p) * z) / (p - 1) + np.exp((2 - p) * z) / (2 - p),
                np.exp((2 - p) * z) - y * np.exp((1 - p) * z),
                (2 - p) * np.exp((2 - p) * z) + (p - 1) * y * np.exp((1 - p) * z),
            ),
            "negative_binomial": lambda: (
                (y + 1 / a) * np.logaddexp(0, z + np.log(a)) - y * z,
                (np.exp(z) - y) / (1 + a * np.exp(z)),
                (1 + a * y) * np.exp(z) / (1 + a * np.exp(z)) ** 2,
            ),
        }[family]()
        slope, curvature = slope[:, None], curvature[:, None, None]
    ridge = np.tile([l2] * d + [0.0] * (q - d), (k, 1))
    grad = (weight[:, None] * slope).T @ rows + ridge * theta
    hessian = np.einsum("n,nab,ni,nj->aibj", weight, curvature, rows, rows, optimize=True).reshape(k * q, k * q)
    return float(weight @ loss + (ridge * theta**2).sum() / 2), grad, hessian + np.diag(ridge.reshape(-1))


FAMILIES = ("gaussian", "binomial", "poisson", "multinomial", "gamma", "tweedie", "negative_binomial")
GLM_PARAMETERS = {"tweedie": 1.5, "negative_binomial": 1.0}
ACTIVATIONS = {f.__name__: f for f in (identity, relu, leaky_relu, tanh, sigmoid, gelu, silu, softmax)}
DERIVATIVES = {
    name: globals()[f"{name}_derivative"] for name in ACTIVATIONS if name != "softmax"
}  # softmax has no elementwise derivative
LOSSES = {f.__name__: f for f in (cross_entropy, mse, mae, huber, binary_cross_entropy)}
# every loss with what it may be given as targets, its options alone and together; CLASS_WEIGHTS are as many as classes
CLASS_WEIGHTS = "one a class"
LOSS_CASES = [
    ("cross_entropy", "classes", {}),
    ("cross_entropy", "probabilities", {}),
    ("cross_entropy", "classes", {"label_smoothing": 0.1}),
    ("cross_entropy", "classes", {"class_weight": CLASS_WEIGHTS}),
    ("cross_entropy", "probabilities", {"class_weight": CLASS_WEIGHTS}),
    ("cross_entropy", "classes", {"class_weight": CLASS_WEIGHTS, "label_smoothing": 0.3}),
    ("cross_entropy", "probabilities", {"class_weight": CLASS_WEIGHTS, "label_smoothing": 0.3}),
    ("cross_entropy", "classes", {"ignore_index": 1}),
    ("cross_entropy", "classes", {"ignore_index": 1, "class_weight": CLASS_WEIGHTS, "label_smoothing": 0.3}),
    ("mse", "values", {}),
    ("mae", "values", {}),
    ("huber", "values", {}),
    ("huber", "values", {"delta": 2.5}),
    ("binary_cross_entropy", "probabilities", {}),
]


def loss_options(options, k):
    """Options of a loss of k outputs."""
    return {name: np.linspace(0.25, 2, k) if value is CLASS_WEIGHTS else value for name, value in options.items()}


RULES = {
    "SGD": sgd,
    "Adagrad": adagrad,
    "RMSprop": rmsprop,
    "Adadelta": adadelta,
    "Adam": adam,
    "AdamW": adamw,
    "RAdam": radam,
    "NAdam": nadam,
    "Adamax": adamax,
    "Lion": lion,
}
# every option of every rule, alone and where options meet
OPTIONS = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.03},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03, "maximize": True},
        {"lr": 0.1, "momentum": 0.9, "lr_in_velocity": True},
        {"lr": 0.1, "momentum": 0.9, "lr_in_velocity": True, "dampening": 0.3, "weight_decay": 0.03},
        {"lr": 0.1, "momentum": 0.9, "lr_in_velocity": True, "nesterov": True, "maximize": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": "interim"},
        {"lr": 0.1, "momentum": 0.9, "nesterov": "interim", "weight_decay": 0.03, "maximize": True},
    ],
    "Adagrad": [
        {},
        {"lr": 0.1, "lr_decay": 0.2},
        {"lr": 0.1, "weight_decay": 0.03},
        {"lr": 0.1, "initial_accumulator_value": 0.5},
        {"lr": 0.1, "eps": 0.1},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "eps": 0.1, "eps_inside_sqrt": True},
        {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.03, "initial_accumulator_value": 0.5, "maximize": True},
    ],
    "RMSprop": [
        {},
        {"lr": 0.05, "alpha": 0.8},
        {"eps": 0.1},
        {"weight_decay": 0.03},
        {"maximize": True},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.9, "weight_decay": 0.03, "maximize": True},
        {"eps": 0.1, "eps_inside_sqrt": True},
        {"eps": 0.1, "eps_inside_sqrt": True, "centered": True, "momentum": 0.9},
        {"momentum": 0.9, "nesterov": "interim"},
        {"momentum": 0.9, "nesterov": "interim", "centered": True, "weight_decay": 0.03, "maximize": True},
        {"momentum": 0.9, "nesterov": "interim", "eps": 0.1, "eps_inside_sqrt": True},
    ],
    "Adadelta": [
        {},
        {"lr": 0.3, "rho": 0.8},
        {"eps": 1e-3},
        {"weight_decay": 0.03},
        {"maximize": True, "weight_decay": 0.03},
        {"eps_inside_sqrt": False, "eps": 1e-3},
        {"lr": 0.3, "rho": 0.8, "eps_inside_sqrt": False, "weight_decay": 0.03},
    ],
    "Adam": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "eps": 0.1},
        {"lr": 0.1, "weight_decay": 0.03},
        {"lr": 0.1, "weight_decay": 0.03, "decoupled_weight_decay": True},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "amsgrad": True},
        {"lr": 0.1, "amsgrad": True, "weight_decay": 0.03, "maximize": True},
        {"lr": 0.1, "eps": 0.1, "eps_inside_sqrt": True},
        {"lr": 0.1, "eps": 0.1, "eps_inside_sqrt": True, "amsgrad": True},
    ],
    "AdamW": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3},
        {"lr": 0.1, "eps": 0.1, "maximize": True},
        {"lr": 0.1, "amsgrad": True},
        {"lr": 0.1, "eps": 0.1, "eps_inside_sqrt": True, "amsgrad": True},
    ],
    "RAdam": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "betas": (0.8, 0.5)},  # never rectified: rho stays below the threshold
        {"lr": 0.1, "eps": 0.1},
        {"lr": 0.1, "weight_decay": 0.03, "maximize": True},
        {"lr": 0.1, "weight_decay": 0.03, "decoupled_weight_decay": True},
        {"lr": 0.1, "rectify_threshold": 4.0},
    ],
    "NAdam": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "eps": 0.1},
        {"lr": 0.1, "momentum_decay": 0.3},
        {"lr": 0.1, "weight_decay": 0.03, "maximize": True},
        {"lr": 0.1, "weight_decay": 0.03, "decoupled_weight_decay": True},
    ],
    "Adamax": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "eps": 0.1},
        {"lr": 0.1, "weight_decay": 0.03, "maximize": True},
    ],
    "Lion": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "weight_decay": 0.03},
        {"lr": 0.1, "weight_decay": 0.03, "maximize": True},
    ],
}
NOT_IN_TORCH = ("lr_in_velocity", "eps_inside_sqrt", "rectify_threshold")


def in_torch(rule, options):
    """Whether torch.optim has this rule with these options."""
    return rule != "Lion" and not set(NOT_IN_TORCH) & set(options) and options.get("nesterov") != "interim"


def moments(rule, options):
    """Names of the arrays the rule keeps with these options."""
    state = {}
    RULES[rule](np.ones(1), np.ones(1), state, **options)
    return tuple(sorted(name for name, value in state.items() if np.ndim(value)))


# one set of options for every set of moments a rule can keep
KERNELS = list({(rule, moments(rule, o)): (rule, o) for rule in RULES for o in reversed(OPTIONS[rule])}.values())
LAYERS = {
    "Dense": dense_layer,
    "Dropout": dropout_layer,
    "RandomFlip": dropout_layer,
    "RandomShift": dropout_layer,
    "GroupedDense": dense_layer,
    "Maxout": maxout_layer,
    "MaxPool2d": max_pool2d_layer,
    "AvgPool2d": avg_pool2d_layer,
    "GlobalAvgPool2d": global_avg_pool2d_layer,
    "Standardize": standardize_layer,
    "BatchNorm": batch_norm_layer,
    "Whiten": whiten_layer,
    "Residual": residual_layer,
}
DTYPES = (np.float32, np.float64)


def gamma(k, dtype):
    """Higham's bound on the relative error of a sum of k products in this dtype."""
    u = np.finfo(dtype).eps / 2
    return k * u / (1 - k * u)


# ---------------------------------------------------------------- functions to minimize (Moré, Garbow & Hillstrom 1981)


class Rosenbrock:
    """Minimum 0 at (1, 1), at the end of a curved valley."""

    starts = ((-1.2, 1.0), (0.0, 0.0))
    minima = (0.0,)

    def value(self, x):
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    def gradient(self, x):
        e = x[1] - x[0] ** 2
        return np.array([-400 * x[0] * e - 2 * (1 - x[0]), 200 * e])

    def hessian(self, x):
        return np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200]])


class Beale:
    """Minimum 0 at (3, 1/2)."""

    starts = ((1.0, 1.0), (0.0, 0.0), (4.0, 1.0))
    minima = (0.0,)

    def _residuals(self, x):
        """The residuals, their gradients and their Hessians, powers 1 to 3 along the first axis."""
        k = np.arange(1, 4)
        slope = k * x[1] ** (k - 1)
        curvature = x[0] * k * (k - 1) * x[1] ** np.maximum(k - 2, 0)
        r = np.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** k)
        return (
            r,
            np.stack([x[1] ** k - 1, x[0] * slope], 1),
            np.array([[0 * k, slope], [slope, curvature]]).transpose(2, 0, 1),
        )

    def value(self, x):
        return np.sum(self._residuals(x)[0] ** 2)

    def gradient(self, x):
        r, dr, _ = self._residuals(x)
        return 2 * r @ dr

    def hessian(self, x):
        r, dr, ddr = self._residuals(x)
        return 2 * (dr.T @ dr + np.tensordot(r, ddr, 1))


class PowellSingular:
    """Minimum 0 at 0, where the Hessian has rank 2."""

    starts = ((3.0, -1.0, 0.0, 1.0),)
    minima = (0.0,)
    DIRECTIONS = np.array([[1.0, 10, 0, 0], [0, 0, 1, -1], [0, 1, -2, 0], [1, 0, 0, -1]])
    WEIGHTS = np.array([1.0, 5, 1, 10])
    POWERS = np.array([2, 2, 4, 4])

    def value(self, x):
        return self.WEIGHTS @ (self.DIRECTIONS @ x) ** self.POWERS

    def gradient(self, x):
        return (self.WEIGHTS * self.POWERS * (self.DIRECTIONS @ x) ** (self.POWERS - 1)) @ self.DIRECTIONS

    def hessian(self, x):
        curvature = self.WEIGHTS * self.POWERS * (self.POWERS - 1) * (self.DIRECTIONS @ x) ** (self.POWERS - 2)
        return (self.DIRECTIONS.T * curvature) @ self.DIRECTIONS


class Wood:
    """Minimum 0 at (1, 1, 1, 1), and a saddle-like plateau on the way."""

    starts = ((-3.0, -1.0, -3.0, -1.0), (0.0, 0.0, 0.0, 0.0))
    minima = (0.0,)

    def value(self, x):
        a, b, c, d = x
        valleys = 100 * (a * a - b) ** 2 + (1 - a) ** 2 + 90 * (c * c - d) ** 2 + (1 - c) ** 2
        return valleys + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)

    def gradient(self, x):
        a, b, c, d = x
        return np.array(
            [
                400 * a * (a * a - b) - 2 * (1 - a),
                -200 * (a * a - b) + 20.2 * (b - 1) + 19.8 * (d - 1),
                360 * c * (c * c - d) - 2 * (1 - c),
                -180 * (c * c - d) + 20.2 * (d - 1) + 19.8 * (b - 1),
            ]
        )

    def hessian(self, x):
        a, b, c, d = x
        first, second = 1200 * a * a - 400 * b + 2, 1080 * c * c - 360 * d + 2
        return np.array(
            [
                [first, -400 * a, 0, 0],
                [-400 * a, 220.2, 0, 19.8],
                [0, 0, second, -360 * c],
                [0, 19.8, -360 * c, 200.2],
            ]
        )


class MonkeySaddle:
    """x³ − 3xy² + (x² + y²)²: three ways down from a point of zero gradient and zero Hessian to −27/256."""

    starts = ((1e-3, 1e-3), (1e-3, 0.0), (-0.1, 0.2))
    minima = (-27 / 256,)

    def value(self, x):
        return x[0] ** 3 - 3 * x[0] * x[1] ** 2 + (x @ x) ** 2

    def gradient(self, x):
        return np.array([3 * x[0] ** 2 - 3 * x[1] ** 2, -6 * x[0] * x[1]]) + 4 * (x @ x) * x

    def hessian(self, x):
        cubic = 6 * np.array([[x[0], -x[1]], [-x[1], -x[0]]])
        return cubic + 4 * (x @ x) * np.eye(2) + 8 * np.outer(x, x)


OBJECTIVES = (Rosenbrock(), Beale(), PowellSingular(), Wood(), MonkeySaddle())
