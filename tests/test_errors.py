"""Every error a caller can meet: its type, its message, and that nothing was written.

A message names the argument, what was expected, what came and, where there is one,
the way out. Pass criterion: the message matches and every array keeps its bytes.
"""

import builtins

import numpy as np
import pytest
import scipy.sparse

import fastopt as fo

F = fo.functional

SHAPES = {
    "x": (4, 3),
    "weight": (5, 3),
    "bias": (5,),
    "dy": (4, 5),
    "z": (4, 5),
    "out": (4, 5),
    "dx": (4, 3),
    "dw": (5, 3),
    "db": (5,),
    "mean": (3,),
    "scale": (3,),
    "wrong": (2, 2),
    "row": (3,),
    "grad": (4, 5),
}


def arrays():
    """float32 arrays that fit each other; `wrong` and `row` fit nothing."""
    rng = np.random.default_rng(2)
    a = {name: rng.uniform(1, 2, shape).astype(np.float32) for name, shape in SHAPES.items()}
    a["read_only"] = np.zeros((4, 5), np.float32)
    a["read_only"].flags.writeable = False
    a["strided"] = np.zeros((5, 4), np.float32).T
    a["unaligned"] = np.zeros(4 * 5 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(4, 5)
    a["pair"] = np.zeros(40, np.float32)  # two overlapping outputs of 20 elements
    a["classes"] = np.array([0, 1, 4, 2])
    a["wide"] = np.zeros((4, 5))  # float64
    a["masked"] = np.ma.masked_greater(a["x"].copy(), 1.5)
    a["masked_out"] = np.ma.masked_greater(a["dy"].copy(), 1.5)
    a["not_finite"] = np.where(np.arange(20).reshape(4, 5) == 11, np.nan, a["dy"]).astype(np.float32)
    return a


def first(pair):
    return pair[:20].reshape(4, 5)


def second(pair):
    return pair[10:30].reshape(4, 5)


# call: the error it gets
FUNCTIONAL = {
    # what comes in
    "F.dense([[1.0]], weight)": r"TypeError: x: expected a NumPy array, got list; pass np\.asarray\(x\)",
    "F.standardize(None, mean, scale)": r"TypeError: x: expected a NumPy array, got NoneType",
    "F.dense(np.ones((4, 3), int), weight)": r"TypeError: x: expected dtype float32 or float64, got int64; pass x\.ast",
    "F.activation(np.ones(3, np.float16), 'relu')": r"TypeError: x: expected dtype .*, got float16",
    "F.activation(np.array([None]), 'relu')": r"TypeError: x: expected dtype .*, got object",
    "F.batch_statistics(np.ones((2, 2), complex))": r"TypeError: x: expected dtype .*, got complex128",
    "F.activation(np.ones(3, '>f4'), 'relu')": r"TypeError: x: expected dtype .*, got >f4",
    "F.dense(x, weight.astype(float))": r"TypeError: weight: expected dtype float32, got float64; pass weight\.ast",
    "F.dense(x, [[1.0]])": r"TypeError: weight: expected a NumPy array, got list",
    "F.dense(row, weight)": r"ValueError: x: expected shape \(n, n\), got \(3,\); pass x\.reshape\(1, -1\)",
    "F.dense(x[None], weight)": r"ValueError: x: expected shape \(n, n\), got \(1, 4, 3\)",
    "F.dense(x, weight.T)": r"ValueError: weight: expected shape \(n, 3\), got \(3, 5\)",
    "F.dense(x, weight, wrong[0])": r"ValueError: bias: expected shape \(5,\), got \(2,\)",
    "F.dense(x, weight, wrong)": r"ValueError: bias: expected shape \(5,\), got \(2, 2\)",
    "F.dense(x, weight, activation='rleu')": r"ValueError: activation: expected one of identity, relu, .*, got 'rleu'",
    "F.dense(x, weight, activation=None)": r"ValueError: activation: expected one of .*, got None",
    "F.activation(x, [])": r"ValueError: activation: expected one of .*, got \[\]",
    "F.activation(np.float32(1), 'relu')": r"TypeError: x: expected a NumPy array, got float32",
    "F.activation(np.ones(()), 'relu')": r"ValueError: x: expected at least one dimension",
    # dense_backward
    "F.dense_backward(dy[:3], x, weight)": r"ValueError: x: expected shape \(3, n\), got \(4, 3\)",
    "F.dense_backward(dy, x, weight[:4])": r"ValueError: weight: expected shape \(5, 3\), got \(4, 3\)",
    "F.dense_backward(dy, x, weight, activation='relu')": r"ValueError: z: expected .* for relu, .*pass z=",
    "F.dense_backward(dy, x, weight, activation='gelu', y=z)": r"ValueError: y: cannot stand for z with gelu",
    "F.dense_backward(dy, x, weight, activation='silu', y=z)": r"ValueError: y: cannot stand for z with silu",
    "F.dense_backward(dy, x, weight, wrong, 'tanh')": r"ValueError: z: expected shape \(4, 5\), got \(2, 2\)",
    "F.dense_backward(dy, x, weight, activation='tanh', y=wrong)": r"ValueError: y: expected shape \(4, 5\)",
    "F.dense_backward(dy, x, weight, dx=wrong)": r"ValueError: dx: expected shape \(4, 3\), got \(2, 2\)",
    "F.dense_backward(dy, x, weight, dw=wrong)": r"ValueError: dw: expected shape \(5, 3\)",
    "F.dense_backward(dy, x, weight, db=wrong)": r"ValueError: db: expected shape \(5,\)",
    "F.dense_backward(dy, x, weight, dx=x)": r"ValueError: dx: expected memory of its own, .* overlaps x; pass a copy",
    "F.dense_backward(dy, x, weight, dw=weight)": r"ValueError: dw: .* overlaps weight",
    "F.dense_backward(dy, x, weight, db=dy[1])": r"ValueError: db: .* overlaps dy",
    "F.dense_backward(dy, x, weight, z, 'relu', dw=z.ravel()[:15].reshape(5, 3))": r"ValueError: dw: .* overlaps z",
    "F.dense_backward(dy, x, weight, dw=dw, db=dw.ravel()[3:8])": r"ValueError: db: .* overlaps dw",
    # grouped_dense
    "F.grouped_dense(x, weight, groups=0)": r"ValueError: groups: expected a whole number of at least 1, got 0",
    "F.grouped_dense(x, weight, groups=True)": r"ValueError: groups: expected a whole number of at least 1, got True",
    "F.grouped_dense(x, weight, groups=2)": r"ValueError: groups: expected a divisor of the 3 columns of x, got 2",
    "F.grouped_dense(x, dw[:, :1], groups=3)": r"ValueError: groups: expected a divisor of the 5 rows of weight, got 3",
    "F.grouped_dense(x, weight, groups=3)": r"ValueError: weight: expected shape \(n, 1\), got \(5, 3\)",
    "F.grouped_dense(x, dw[:3, :1], bias, groups=3)": r"ValueError: bias: expected shape \(3,\), got \(5,\)",
    "F.grouped_dense(x, weight.astype(float))": r"TypeError: weight: expected dtype float32, got float64",
    "F.grouped_dense(x, dw[:3, :1], groups=3, out=x)": r"ValueError: out: expected memory of its own, .* overlaps x",
    "F.grouped_dense(x, weight, out=wide)": r"TypeError: out: expected dtype float32 to write to, got float64",
    "F.grouped_dense(x, weight, out=out, z=out)": r"ValueError: z: .* overlaps out",
    "F.grouped_dense(x, weight, activation='rleu')": r"ValueError: activation: expected one of .*, got 'rleu'",
    "F.grouped_dense_backward(dy, x, weight, groups=3)": r"ValueError: groups: .* the 5 columns of dy, got 3",
    "F.grouped_dense_backward(dy, x, weight, groups=5)": r"ValueError: groups: .* the 3 columns of x, got 5",
    "F.grouped_dense_backward(x, x, dw[:3], groups=3)": r"ValueError: weight: expected shape \(3, 1\), got \(3, 3\)",
    "F.grouped_dense_backward(dy, x, weight, activation='relu')": r"ValueError: z: expected .* for relu",
    "F.grouped_dense_backward(dy, x, weight, dx=x)": r"ValueError: dx: .* overlaps x",
    "F.grouped_dense_backward(dy, x, weight, dw=wrong)": r"ValueError: dw: expected shape \(5, 3\)",
    # pooling
    "F.max_pool2d(x, 2)": r"ValueError: x: expected images of shape \(n, height, width, channels\), got shape \(4, 3\)",
    "F.max_pool2d(x[None, None].astype(int), 2)": r"TypeError: x: expected dtype float32 or float64, got int64",
    "F.max_pool2d(x[None, None], 2)": r"ValueError: kernel_size: expected at most the padded image, \(1, 4\), got",
    "F.max_pool2d(x[None, None], 1, 0)": r"ValueError: stride: expected a whole number of at least 1, got 0",
    "F.max_pool2d(x[None, None], 2**70)": r"ValueError: kernel_size: expected a whole number from 1 to .*, got \d+",
    "F.max_pool2d(x[None, None], 1, padding=1)": r"ValueError: padding: expected at most half .*, \(0, 0\), got 1",
    "F.max_pool2d(x[None, None], 1, out=dy[None, None])": r"ValueError: out: expected shape \(1, 1, 4, 3\), got",
    "F.max_pool2d(x[None, None], 1, out=x[None, None])": r"ValueError: out: .* overlaps x; pass a copy",
    "F.max_pool2d_backward(dy[None, None], x[None, None], 1)": r"ValueError: dy: expected shape \(1, 1, 4, 3\), got",
    "F.max_pool2d_backward(x[None, None], x[None, None], 1, dx=x[None, None])": r"ValueError: dx: .* overlaps dy",
    "F.avg_pool2d(x[None, None], 1, count_include_pad=3)": r"ValueError: count_include_pad: expected True or False",
    "F.avg_pool2d_backward(x[None, None], (4, 3), 1)": r"ValueError: input_shape: .*got \(4, 3\); pass x.shape",
    "F.avg_pool2d_backward(x[None, None], (1, 1, 4, -3), 1)": r"ValueError: input_shape\[3\]: .* at least 0, got -3",
    # maxout
    "F.maxout(x)": r"ValueError: pieces: expected a divisor of the 3 columns of x, got 2",
    "F.maxout(x, 0)": r"ValueError: pieces: expected a whole number of at least 1, got 0",
    "F.maxout(x, 1.5)": r"ValueError: pieces: expected a whole number of at least 1, got 1\.5",
    "F.maxout(row)": r"ValueError: x: expected shape \(n, n\), got \(3,\)",
    "F.maxout(x, 3, dy)": r"ValueError: out: expected shape \(4, 1\), got \(4, 5\)",
    "F.maxout(x, 1, x)": r"ValueError: out: expected memory of its own, got an array that overlaps x; pass a copy",
    "F.maxout(dy, 1, wide)": r"TypeError: out: expected dtype float32 to write to, got float64",
    "F.maxout_backward(dy, x)": r"ValueError: x: expected shape \(4, 10\), got \(4, 3\)",
    "F.maxout_backward(dy, z.astype(float), 1)": r"TypeError: x: expected dtype float32, got float64",
    "F.maxout_backward(dy, z, 1, z)": r"ValueError: dx: .* overlaps x",
    "F.maxout_backward(dy, z, 1, dy)": r"ValueError: dx: .* overlaps dy",
    "F.maxout_backward(dy, z, 1, read_only)": r"ValueError: dx: expected a writable array",
    # dropout
    "F.dropout(x, 1.0, 0)": r"ValueError: rate: expected a number in \[0, 1\), the share to drop, got 1\.0",
    "F.dropout(x, -0.1, 0)": r"ValueError: rate: expected a number in \[0, 1\), .*, got -0\.1",
    "F.dropout(x, np.nan, 0)": r"ValueError: rate: expected a number in \[0, 1\), .*, got nan",
    "F.dropout(x, 'half', 0)": r"ValueError: rate: expected a number in \[0, 1\), .*, got 'half'",
    "F.dropout(x, 0.5, -1)": r"ValueError: seed: expected a whole number from 0 to 2\*\*64 - 1, got -1",
    "F.dropout(x, 0.5, 2**64)": r"ValueError: seed: expected a whole number from 0 to 2\*\*64 - 1, got 1844674",
    "F.dropout(x, 0.5, 0, 1.5)": r"ValueError: step: expected a whole number from 0 to 2\*\*64 - 1, got 1\.5",
    "F.dropout([1.0], 0.5, 0)": r"TypeError: x: expected a NumPy array, got list",
    "F.dropout(dy, 0.5, 0, 0, wrong)": r"ValueError: out: expected shape \(4, 5\), got \(2, 2\)",
    "F.dropout(dy, 0.5, 0, 0, wide)": r"TypeError: out: expected dtype float32 to write to, got float64",
    "F.dropout(first(pair), 0.5, 0, 0, second(pair))": r"ValueError: out: .* overlaps x",
    "F.dropout_backward(dy, 0.5, 0, 0, read_only)": r"ValueError: dx: expected a writable array",
    "F.dropout_backward(first(pair), 0.5, 0, 0, second(pair))": r"ValueError: dx: .* overlaps dy",
    # what is written to
    "F.dense(x, weight, out=[0.0])": r"TypeError: out: expected a NumPy array to write to, got list",
    "F.dense(x, weight, out=wide)": r"TypeError: out: expected dtype float32 to write to, got float64",
    "F.dense(x, weight, out=wrong)": r"ValueError: out: expected shape \(4, 5\), got \(2, 2\)",
    "F.dense(x, weight, out=read_only)": r"ValueError: out: expected a writable array, .*; pass a copy",
    "F.dense(x, weight, out=strided)": r"ValueError: out: expected a C-contiguous, aligned array .*strides \(4, 16\)",
    "F.dense(x, weight, out=unaligned)": r"ValueError: out: expected a C-contiguous, aligned array",
    "F.dense(x, weight, z=wide)": r"TypeError: z: expected dtype float32 to write to, got float64",
    "F.dense(x, weight, z=read_only)": r"ValueError: z: expected a writable array",
    "F.dense(x, weight, out=out, z=out)": r"ValueError: z: expected memory of its own, got an array that overlaps out",
    "F.dense(x, weight, out=first(pair), z=second(pair))": r"ValueError: z: .* overlaps out",
    "F.dense(x, weight[:3], out=x.ravel().reshape(4, 3))": r"ValueError: out: .* overlaps x",
    "F.dense(x[:1], weight, bias, out=bias.reshape(1, 5))": r"ValueError: out: .* overlaps bias",
    "F.activation(first(pair), 'relu', second(pair))": r"ValueError: out: .* overlaps x",
    "F.activation(x, 'relu', wrong)": r"ValueError: out: expected shape \(4, 3\), got \(2, 2\)",
    # standardization
    "F.standardize(x, wrong[0], scale)": r"ValueError: mean: expected shape \(3,\), got \(2,\)",
    "F.standardize(x, mean, scale.astype(float))": r"TypeError: scale: expected dtype float32, got float64",
    "F.standardize(x[:1], mean, scale, mean.reshape(1, 3))": r"ValueError: out: .* overlaps mean",
    "F.standardize(x[:1], mean, scale, scale.reshape(1, 3))": r"ValueError: out: .* overlaps scale",
    "F.standardize(x[:3], mean, scale, x[1:])": r"ValueError: out: .* overlaps x",
    "F.batch_statistics(x, correction=-1)": r"ValueError: correction: expected a whole number of at least 0, got -1",
    "F.batch_statistics(x, correction=4)": r"ValueError: x: expected more than 4 elements a column .*, got 4",
    "F.batch_statistics(x[:, None])": r"ValueError: x: expected shape \(n, n\), got \(4, 1, 3\)",
    "F.batch_statistics(x[:0])": r"ValueError: x: expected at least one row, got none",
    "F.batch_statistics(row)": r"ValueError: x: expected shape \(n, n\), got \(3,\); pass x\.reshape\(1, -1\)",
    # batch normalization
    "F.batch_norm(x[:1])": r"ValueError: x: expected at least two rows to take batch statistics of, got 1; .*inference",
    "F.batch_norm(x, wrong[0])": r"ValueError: gamma: expected shape \(3,\), got \(2,\)",
    "F.batch_norm(x, mean, wrong)": r"ValueError: beta: expected shape \(3,\), got \(2, 2\)",
    "F.batch_norm(x, eps=0)": r"ValueError: eps: expected a finite number above 0, got 0",
    "F.batch_norm(x, eps=np.nan)": r"ValueError: eps: expected a finite number above 0, got nan",
    "F.batch_norm(x, eps='a')": r"ValueError: eps: expected a finite number above 0, got 'a'",
    "F.batch_norm(x, activation='rleu')": r"ValueError: activation: expected one of .*, got 'rleu'",
    "F.batch_norm(x, out=x)": r"ValueError: out: expected memory of its own, got an array that overlaps x; pass a copy",
    "F.batch_norm(x, out=wrong)": r"ValueError: out: expected shape \(4, 3\), got \(2, 2\)",
    "F.batch_norm(x, out=dx, z=dx)": r"ValueError: z: .* overlaps out",
    "F.batch_norm_inference(x, None, None, wrong[0], scale)": r"ValueError: mean: expected shape \(3,\), got \(2,\)",
    "F.batch_norm_inference(x, None, None, mean, None)": r"TypeError: var: expected a NumPy array, got NoneType",
    "F.batch_norm_inference(x[:3], None, None, mean, scale, out=x[1:])": r"ValueError: out: .* overlaps x",
    "F.batch_norm_inference(x[:1], None, None, mean, scale, out=mean[None])": r"ValueError: out: .* overlaps mean",
    "F.batch_norm_backward(dx[:1], x[:1], None, mean, scale)": r"ValueError: x: expected at least two rows",
    "F.batch_norm_backward(dy, x, None, mean, scale)": r"ValueError: x: expected shape \(4, 5\), got \(4, 3\)",
    "F.batch_norm_backward(dx, x, None, mean, scale, dx=x)": r"ValueError: dx: .* overlaps x",
    "F.batch_norm_backward(dx, x, mean, mean, scale, dgamma=mean)": r"ValueError: dgamma: .* overlaps gamma",
    "F.batch_norm_backward(dx, x, None, mean, scale, dbeta=wrong)": r"ValueError: dbeta: expected shape \(3,\)",
    "F.batch_norm_backward(dx, x, None, mean, scale, activation='relu')": r"ValueError: z: expected .* for relu",
    # losses
    "F.mse(x[:, :0].copy(), x[:, :0])": r"ValueError: prediction: expected at least one column, got none",
    "F.cross_entropy(dy, classes + 1, grad)": r"ValueError: targets: expected classes from 0 to 4 .*, got 1 to 5",
    "F.cross_entropy(dy, classes - 1, grad)": r"ValueError: targets: expected classes from 0 to 4 .*, got -1 to 3",
    "F.cross_entropy(dy, np.full(4, 2**63, np.uint64), grad)": r"ValueError: targets: expected classes from 0 to 4",
    "F.cross_entropy(dy, classes * 1.0, grad)": r"TypeError: targets: expected integer classes .*astype",
    "F.cross_entropy(dy, classes[:3], grad)": r"ValueError: targets: expected shape \(4,\), got \(3,\)",
    "F.cross_entropy(dy, x, grad)": r"ValueError: targets: expected shape \(4, 5\), got \(4, 3\)",
    "F.mse(dy, np.full((4, 5), 'a'), grad)": r"TypeError: targets: expected real numbers, got dtype <U1",
    "F.mse(dy, dy + 1j, grad)": r"TypeError: targets: expected real numbers, got dtype complex64",
    "F.mse(dy, wrong, grad)": r"ValueError: targets: expected shape \(4, 5\), got \(2, 2\)",
    "F.mse([[1.0]], wrong)": r"TypeError: prediction: expected a NumPy array, got list",
    "F.mse(dy, z, grad, sample_weight=[1, 2])": r"ValueError: sample_weight: expected shape \(4,\), got \(2,\)",
    "F.mse(dy, z, grad, sample_weight=[1, 1, -1, 1])": r"ValueError: sample_weight: expected .* at least 0",
    "F.mse(dy, z, grad, sample_weight=[1, np.nan, 1, 1])": r"ValueError: sample_weight: expected finite",
    "F.mse(dy, z, grad, sample_weight=[1, np.inf, 1, 1])": r"ValueError: sample_weight: expected finite",
    "F.mse(dy, z, dy)": r"ValueError: grad: .* overlaps prediction",
    "F.mse(dy, z, z)": r"ValueError: grad: .* overlaps targets",
    "F.mse(x[:, :1], x[:, 1], db[:4, None], sample_weight=db[:4])": r"ValueError: grad: .* sample_weight",
    "F.mse(dy, z, wide)": r"TypeError: grad: expected dtype float32 to write to, got float64",
    "F.cross_entropy([[1.0]], wrong)": r"TypeError: logits: expected a NumPy array, got list",
    "F.cross_entropy(dy, z, grad)": r"ValueError: targets: expected probabilities from 0 to 1, got ",
    "F.cross_entropy(dy, z * np.nan, grad)": r"ValueError: targets: expected probabilities from 0 to 1, got nan",
    "F.cross_entropy(dy, classes, grad, label_smoothing=1)": r"ValueError: label_smoothing: .*\[0, 1\), got 1",
    "F.cross_entropy(dy, classes, grad, label_smoothing=-0.1)": r"ValueError: label_smoothing: .*\[0, 1\), got -0\.1",
    "F.cross_entropy(dy, classes, grad, label_smoothing=np.nan)": r"ValueError: label_smoothing: .*, got nan",
    "F.cross_entropy(dy, classes, grad, class_weight=[1, 2])": r"ValueError: class_weight: .*\(5,\), got \(2,\)",
    "F.cross_entropy(dy, classes, grad, class_weight=[1, 1, 1, 1, -1])": r"ValueError: class_weight: .* at least 0",
    "F.cross_entropy(dy[:1], classes[:1], db.reshape(1, 5), class_weight=db)": r"ValueError: grad: .* class_weight",
    "F.binary_cross_entropy(dy, z + 2, grad)": r"ValueError: targets: expected probabilities from 0 to 1, got",
    "F.binary_cross_entropy(dy, -np.abs(z) - 1, grad)": r"ValueError: targets: expected probabilities from 0 to 1, got",
    "F.binary_cross_entropy(dy, classes, grad)": r"ValueError: targets: expected shape \(4, 5\), got \(4,\)",
    "F.huber(dy, z, grad, delta=0.0)": r"ValueError: delta: expected a finite number above 0, got 0\.0",
    "F.huber(dy, z, grad, delta=np.inf)": r"ValueError: delta: expected a finite number above 0, got inf",
    "F.mae(dy, wrong, grad)": r"ValueError: targets: expected shape \(4, 5\), got \(2, 2\)",
    "F.cross_entropy(dy, classes, read_only)": r"ValueError: grad: expected a writable array",
    "F.cross_entropy(dy, [0, 5, -100, 1], grad)": r"ValueError: targets: .* got 0 to 5, first 5 at \(1,\); .* -100 ",
    "F.cross_entropy(dy, [0, 9, 9, 1], grad, sample_weight=[1, 1, 0, 1])": r"ValueError: targets: .* 9 at \(1,\)",
    "F.cross_entropy(dy, np.array([0, 1, 2, 2**64 - 100], np.uint64), grad)": r"ValueError: targets: expected classes",
    "F.cross_entropy(dy, z / 2, grad, ignore_index=2)": r"ValueError: ignore_index: expected no class where .*, got 2",
    "F.cross_entropy(dy, classes, grad, ignore_index=1.0)": r"ValueError: ignore_index: .* got 1\.0",
    "F.cross_entropy(dy, classes, grad, ignore_index=None)": r"ValueError: ignore_index: expected a whole number",
    "F.cross_entropy(dy, classes, grad, class_weight=dict.fromkeys(range(5), 1.0))": r"TypeError: class_weight: "
    r"expected real numbers, got a dict; pass its values as a list, in order: \[class_weight\[i\] for i",
    # data of other kinds: masks, imaginary parts and missing values are not lost
    "F.dense(masked, weight)": r"TypeError: x: expected an array without masked elements, .*; pass x\.filled\(\.\.\.\)",
    "F.dense(x, weight, out=masked_out)": r"TypeError: out: expected an array without masked elements",
    "F.mse(dy, masked_out, grad)": r"TypeError: targets: .*, got a masked array; pass targets\.filled",
    "F.mse(dy, z, grad, sample_weight=masked[:, 0])": r"TypeError: sample_weight: .*; pass sample_weight\.filled",
    "F.mse(dy, z, grad, sample_weight=np.ones(4, complex))": r"TypeError: sample_weight: .* complex128; pass ",
    "F.mse(dy, z, grad, sample_weight={1.0, 2.0})": r"TypeError: sample_weight: .* got a set; a set has no order",
    "F.mse(dy, (r for r in z), grad)": r"TypeError: targets: .*, got a generator; pass list\(targets\)",
    "F.mse(dy, [[1.0], [1.0, 2.0]], grad)": r"ValueError: targets: .*, got a list that makes no array",
    "F.mse(dy, [[1.0, None]], grad)": r"TypeError: targets: .* object with None at \(0, 1\); fill or drop",
    "F.mse(dy, None, grad)": r"TypeError: targets: expected real numbers, got a NoneType; fill or drop missing",
    "F.mse(dy, np.full((4, 5), '2026-01-01', 'datetime64[D]'), grad)": r"TypeError: targets: .*, got dtype datetime64",
    "F.cross_entropy(dy, ['a', 'b', 'a', 'b'], grad)": r"TypeError: targets: expected integer classes .*; "
    r"number text by classes, numbers = numpy\.unique\(text, return_inverse=True\)",
    "F.dense(sparse, weight)": r"TypeError: x: expected a NumPy array, got csr_matrix; pass x\.toarray\(\)",
    "F.mse(dy, sparse, grad)": r"TypeError: targets: .* sparse csr_matrix; pass targets\.toarray",
    "F.clip_grad_norm_([masked_out], 1.0)": r"TypeError: grads\[0\]: expected an array without masked elements",
    # gradients clipped in place: all are checked before one is written
    "F.clip_grad_norm_([dy, [1.0]], 1.0)": r"TypeError: grads\[1\]: expected a NumPy array, got list",
    "F.clip_grad_norm_([dy, read_only], 1.0)": r"ValueError: grads\[1\]: expected a writable array",
    "F.clip_grad_norm_([dy, strided], 1.0)": r"ValueError: grads\[1\]: expected a C-contiguous, aligned array",
    "F.clip_grad_norm_([dy, classes], 1.0)": r"TypeError: grads\[1\]: expected dtype float32 or float64, got int64",
    "F.clip_grad_norm_([dy], -1.0)": r"ValueError: max_norm: expected .*, got -1",
    "F.clip_grad_norm_([dy], np.nan)": r"ValueError: max_norm: expected .*, got nan",
    "F.clip_grad_norm_([dy, not_finite], 1.0, error_if_nonfinite=True)": r"FloatingPointError: grads: expected a fin",
    "F.clip_grad_value_([dy, [1.0]], 1.0)": r"TypeError: grads\[1\]: expected a NumPy array, got list",
    "F.clip_grad_value_([dy, read_only], 1.0)": r"ValueError: grads\[1\]: expected a writable array",
    "F.clip_grad_value_([dy], -1.0)": r"ValueError: value: expected .*, got -1",
}


def net():
    return fo.nn.Sequential([fo.nn.Dense(3, 5, activation="relu")], rng=0)


def normal():
    return fo.nn.Sequential([fo.nn.BatchNorm(3), fo.nn.Dense(3, 5)], rng=0)


OBJECTS = {
    # optimizers
    "fo.optim.SGD([masked])": r"TypeError: params\[0\]: expected an array without masked elements",
    "fo.optim.SGD([z]).step([masked_out])": r"TypeError: grads\[0\]: expected an array without masked elements",
    "fo.optim.SGD([])": r"ValueError: params: expected at least one array, got none",
    "fo.optim.SGD([[1.0]])": r"TypeError: params\[0\]: expected a NumPy array.*, got list",
    "fo.optim.SGD(['abc'])": r"TypeError: params\[0\]: expected a NumPy array.*, got str",
    "fo.optim.SGD([bytearray(8)])": r"TypeError: params\[0\]: expected dtype float32 or float64, got uint8",
    "fo.optim.SGD([memoryview(bytes(8)).cast('f')])": r"ValueError: params\[0\]: expected a writable array",
    "fo.optim.SGD([np.ones(3, int)])": r"TypeError: params\[0\]: expected dtype float32 or float64, got int64",
    "fo.optim.Adam([x, read_only])": r"ValueError: params\[1\]: expected a writable array",
    "fo.optim.Adam([strided])": r"ValueError: params\[0\]: expected a C-contiguous, aligned array",
    "fo.optim.Adam([x, x])": r"ValueError: params\[1\]: .* overlaps params\[0\]",
    "fo.optim.Adam([first(pair), second(pair)])": r"ValueError: params\[1\]: .* overlaps params\[0\]",
    "fo.optim.SGD([{'params': [x], 'beta': 1}])": r"TypeError: SGD: unknown option 'beta'; it takes lr, momentum",
    "fo.optim.SGD([x], lr=-1)": r"ValueError: lr: expected a finite number of at least 0 or a schedule, got -1",
    "fo.optim.Adam([x], lr=np.nan)": r"ValueError: lr: expected a finite number of at least 0 or a schedule, got nan",
    "fo.optim.Adam([x], eps=-1e-8)": r"ValueError: eps: expected",
    "fo.optim.SGD([x], momentum=-0.1)": r"ValueError: momentum: expected",
    "fo.optim.SGD([x], weight_decay=np.inf)": r"ValueError: weight_decay: expected",
    "fo.optim.Adam([x], betas=(0.9, 1.0))": r"ValueError: betas: expected two numbers in \[0, 1\), got \(0\.9, 1\.0\)",
    "fo.optim.Adam([x], betas=(0.9, 0.9, 0.9))": r"ValueError: betas: expected two numbers",
    "fo.optim.SGD([x], nesterov=True)": r"ValueError: nesterov: expected momentum above 0 and dampening 0",
    "fo.optim.SGD([x], momentum=0.9, dampening=0.1, nesterov=True)": r"ValueError: nesterov: expected",
    "fo.optim.SGD([x], momentum=0.9, nesterov='later')": r"ValueError: nesterov: expected .*'interim', got 'later'",
    "fo.optim.SGD([x], nesterov='interim')": r"ValueError: nesterov: expected momentum above 0 and dampening 0",
    "fo.optim.RMSprop([x], nesterov='interim')": r"ValueError: nesterov: expected momentum above 0",
    "fo.optim.RMSprop([x], momentum=0.9, nesterov=True)": r"ValueError: nesterov: expected .*'interim', got True",
    "fo.optim.RMSprop([x], alpha=-0.1)": r"ValueError: alpha: expected .*, got -0\.1",
    "fo.optim.Adadelta([x], rho=1.5)": r"ValueError: rho: expected .*, got 1\.5",
    "fo.optim.Adagrad([x], lr_decay=-1)": r"ValueError: lr_decay: expected .* at least 0 or a schedule, got -1",
    "fo.optim.Adagrad([x], initial_accumulator_value=-1)": r"ValueError: initial_accumulator_value: .*, got -1",
    "fo.optim.NAdam([x], momentum_decay=-1)": r"ValueError: momentum_decay: expected .*, got -1",
    "fo.optim.RAdam([x], rectify_threshold=np.nan)": r"ValueError: rectify_threshold: expected .*, got nan",
    "fo.optim.Lion([x], betas=0.9)": r"ValueError: betas: expected two numbers in \[0, 1\), got 0\.9",
    "fo.optim.AdamW([x], lr='fast')": r"ValueError: lr: expected a finite number .* or a schedule, got 'fast'",
    "fo.optim.SGD([x], momentum=lambda t: 0.1)": r"ValueError: momentum: expected .* or a schedule, got <func",
    "fo.optim.SGD([x], max_norm=1, clip_value=1)": r"ValueError: max_norm, clip_value: expected one of them, got both",
    "fo.optim.SGD([x], max_norm=-1.0)": r"ValueError: max_norm: expected .*, got -1",
    "fo.optim.SGD([x], clip_value=np.nan)": r"ValueError: clip_value: expected .*, got nan",
    "fo.optim.SGD([x], check_finite='always')": r"ValueError: check_finite: expected None, 'raise' or 'skip', got 'al",
    "fo.optim.SGD([x], accumulate=1.5)": r"ValueError: accumulate: expected a whole number of at least 1, got 1\.5",
    "fo.optim.SGD([x], accumulate=2**70)": r"ValueError: accumulate: expected a whole number from 1 to 90071992547",
    "fo.optim.SGD([x], accumulate=True)": r"ValueError: accumulate: expected a whole number of at least 1, got True",
    "fo.optim.SGD([x], ema_decay='x')": r"ValueError: ema_decay: expected .*, got 'x'",
    "fo.optim.SGD([x], max_norm=10**400)": r"ValueError: max_norm: expected a finite number above 0",
    "fo.optim.SGD([x], max_norm=np.array([1.0, 2.0]))": r"ValueError: max_norm: expected a finite number above 0",
    "fo.optim.SGD([x], clip_value='1')": r"ValueError: clip_value: expected a finite number above 0, got '1'",
    "net().predict([[10**400, 1, 1]])": r"ValueError: x: expected real numbers, got a whole number too large",
    "fo.optim.SGD([x], ema_decay=1.5)": r"ValueError: ema_decay: expected .*, got 1\.5",
    "fo.optim.SGD([{'params': [x], 'max_norm': 1.0}])": r"TypeError: SGD: unknown option 'max_norm'; it takes lr",
    "fo.optim.SGD([x]).add_param_group({'params': [x]})": r"ValueError: params\[1\]: .* overlaps params\[0\]",
    "fo.optim.SGD([x]).add_param_group({'params': [read_only]})": r"ValueError: params\[1\]: expected a writable array",
    "fo.optim.SGD([x]).add_param_group({'params': z, 'speed': 1})": r"TypeError: SGD: unknown option 'speed'",
    "fo.optim.SGD([x]).add_param_group({'params': z, 'lr': -1})": r"ValueError: lr: expected a finite number",
    "fo.optim.SGD([x]).add_param_group({'params': []})": r"ValueError: params: expected at least one array, got none",
    "fo.optim.SGD([x]).add_param_group({'lr': 0.1})": r"ValueError: .*params",
    "fo.optim.Adam([x]).interim_point().__enter__()": r"ValueError: interim_point: .*nesterov=.interim.*, got none",
    "fo.optim.Adam([x]).averaged().__enter__()": r"ValueError: averaged: .*ema_decay",
    "fo.optim.SGD([z], check_finite='raise').step([not_finite])": r"FloatingPointError: grads\[0\]: .*\(2, 1\)",
    "fo.optim.Adam([x]).load_state_dict({})": r"ValueError: state_dict: ",
    "fo.optim.Adam([x]).load('no.safetensors')": r"FileNotFoundError: .*no\.safetensors",
    "fo.optim.SGD([x, z]).step([x])": r"ValueError: grads: expected 2 arrays, one a parameter, got 1; pass None",
    "fo.optim.SGD([z]).step([strided.T])": r"ValueError: grads\[0\]: .*\(5, 4\); pass its transpose",
    "fo.optim.SGD([z]).step([wide])": r"TypeError: grads\[0\]: expected dtype float32 .*, got float64",
    "fo.optim.SGD([z]).step([strided])": r"ValueError: grads\[0\]: expected a C-contiguous, aligned array, got strides",
    "fo.optim.SGD([x, z]).step([dx, z])": r"ValueError: grads\[1\]: .* overlaps params\[1\]",
    "fo.optim.SGD([row]).step([[1.0, 1.0, 1.0]])": r"TypeError: grads\[0\]: expected a NumPy array.*, got list",
    "fo.optim.SGD([x]).load_state_dict(fo.optim.SGD([z, x]).state_dict())": r"ValueError: state_dict: .* got \[2\]",
    # layers and networks
    "fo.nn.Dense(0, 3)": r"ValueError: in_features: expected a whole number of at least 1, got 0",
    "fo.nn.Dense(3, 2.5)": r"ValueError: out_features: expected a whole number of at least 1, got 2\.5",
    "fo.nn.GroupedDense(6, 4, 3)": r"ValueError: groups: expected a divisor of out_features, 4, got 3",
    "fo.nn.GroupedDense(4, 6, 3)": r"ValueError: groups: expected a divisor of in_features, 4, got 3",
    "fo.nn.GroupedDense(4, 6, 0)": r"ValueError: groups: expected a whole number of at least 1, got 0",
    "fo.nn.GroupedDense(4, 4, 2, 'cube')": r"ValueError: activation: expected one of .*, got 'cube'",
    "fo.nn.Maxout(4, 4, pieces=0)": r"ValueError: pieces: expected a whole number of at least 1, got 0",
    "fo.nn.Dense(3, 3, init='xavier')": r"ValueError: init: expected None or one of glorot, .*, zeros, got 'xavier'",
    "fo.nn.Maxout(3, 3, init=[])": r"ValueError: init: expected None or one of .*, got \[\]",
    "fo.nn.GroupedDense(4, 4, 2, init='ones')": r"ValueError: init: expected None or one of .*, got 'ones'",
    "fo.nn.Whiten(0)": r"ValueError: features: expected a whole number of at least 1, got 0",
    "fo.nn.Whiten(3, 'ica')": r"ValueError: kind: expected 'zca' or 'pca', got 'ica'",
    "fo.nn.Whiten(3, eps=-1)": r"ValueError: eps: expected a finite number of at least 0, got -1",
    "fo.nn.Whiten(3, eps=np.nan)": r"ValueError: eps: expected a finite number of at least 0, got nan",
    "fo.nn.Residual([fo.nn.Whiten(3)])": r"ValueError: layers: expected no Whiten inside a shortcut",
    "fo.nn.Sequential([fo.nn.Whiten(3)]).fold()": r"ValueError: Whiten has no statistics yet; call net\.calibrate\(X\)",
    "fo.nn.Sequential([fo.nn.Whiten(3)]).calibrate(x[:0])": r"ValueError: X: expected at least one row, got none",
    "fo.nn.condition_number(row)": r"ValueError: X: expected shape \(n, c\), got \(3,\)",
    "fo.nn.condition_number(not_finite)": r"ValueError: X: expected finite values, got nan in column 1",
    "fo.nn.Dropout(1)": r"ValueError: rate: expected a number in \[0, 1\), the share to drop, got 1",
    "fo.nn.Sequential([fo.nn.Dropout(0.5)])": r"ValueError: layers: expected a layer besides Dropout, .*, got none",
    "fo.nn.Residual([fo.nn.Dropout(0.5)])": r"ValueError: layers: expected a layer besides Dropout, .*, got none",
    "fo.nn.Standardize(True)": r"ValueError: features: expected a whole number of at least 1, got True",
    "fo.nn.BatchNorm(0)": r"ValueError: features: expected a whole number of at least 1, got 0",
    "fo.nn.BatchNorm(3, eps=0)": r"ValueError: eps: expected a finite number above 0, got 0",
    "fo.nn.BatchNorm(3, momentum=1.5)": r"ValueError: momentum: expected a finite number .* at most 1, got 1\.5",
    "fo.nn.BatchNorm(3, activation='cube')": r"ValueError: activation: expected one of .*, got 'cube'",
    "normal().value_and_grad(x[:1], classes[:1])": r"ValueError: x: expected at least two rows .*, got 1",
    "normal().calibrate(x[:1])": r"ValueError: X: expected at least two rows to take statistics of, got 1",
    "normal().calibrate(np.full((2, 3), np.nan))": r"ValueError: X: expected finite values .* in column 0",
    "fo.nn.Dense(3, 3, activation='cube')": r"ValueError: activation: expected one of .*, got 'cube'",
    "fo.nn.Dense(3, 3).weight": r"AttributeError: weight: made when the layer is put into a Sequential",
    "setattr(net().layers[0], 'weight', wrong)": r"ValueError: weight: expected shape \(5, 3\), got \(2, 2\)",
    "fo.nn.Sequential([])": r"ValueError: layers: expected at least one layer, got none",
    "fo.nn.Sequential(['dense'])": r"TypeError: layers\[0\]: expected a layer, got str",
    "fo.nn.Sequential([fo.nn.Dense(3, 3)], dtype=int)": r"TypeError: dtype: expected float32 or float64, got int64",
    "fo.nn.summary('net')": r"TypeError: net: expected a Sequential or a list of layers, got str",
    "fo.nn.summary([net()])": r"TypeError: layers\[0\]: expected a layer, got Sequential",
    "net().predict(dy)": r"ValueError: x: expected shape \(n, 3\), got \(4, 5\)",
    "net().predict(row)": r"ValueError: x: expected shape \(n, 3\), got \(3,\); pass x\.reshape\(1, -1\)",
    "net().predict(np.full((4, 3), 'a'))": r"TypeError: x: expected real numbers, got dtype <U1",
    "net().predict(masked)": r"TypeError: x: expected real numbers, got a masked array; pass x\.filled\(\.\.\.\)",
    "net().predict(list(masked))": r"TypeError: x: expected real numbers, got a masked array",
    "net().predict(masked, check_finite=True)": r"TypeError: x: expected real numbers, got a masked array",
    "net().predict(x + 1j)": r"TypeError: x: expected real numbers, got dtype complex64; pass x\.real",
    "net().predict(sparse)": r"TypeError: x: expected real numbers, got a sparse csr_matrix; pass x\.toarray\(\)",
    "setattr(net().layers[0], 'weight', weight * 1j)": r"TypeError: weight: expected real numbers, got dtype complex64",
    "setattr(net().layers[0], 'weight', np.ma.masked_greater(weight, 1.5))": r"TypeError: weight: .* masked array",
    "fo.nn.CrossEntropy(ignore_index=0.5)": r"ValueError: ignore_index: expected a whole number .*, got 0\.5",
    "net().predict(x, wrong)": r"ValueError: out: expected shape \(4, 5\), got \(2, 2\)",
    "net().predict(x, wide)": r"TypeError: out: expected dtype float32 to write to, got float64",
    "net().predict(x, read_only)": r"ValueError: out: expected a writable array",
    "fo.nn.Sequential([fo.nn.Dense(3, 3)], rng=0).predict(x, x)": r"ValueError: out: .* overlaps x",
    "net().value_and_grad(x, classes, 'hinge')": r"ValueError: loss: expected .*, or a callable, got 'hinge'",
    "net().evaluate(x, classes, 'hinge')": r"ValueError: loss: expected .*, or a callable, got 'hinge'",
    "net().value_and_grad(x, z, fo.nn.Dense)": r"ValueError: loss: expected one of cross_entropy, .*nn\.CrossEntropy",
    "net().value_and_grad(x, classes, fo.nn.CrossEntropy(class_weight=[1]))": r"ValueError: class_weight: .*\(5,\)",
    "net().predict_proba(x, 'mse')": r"ValueError: loss: expected binary_cross_entropy or cross_entropy, got 'mse'",
    "fo.nn.CrossEntropy(label_smoothing=1.0)": r"ValueError: label_smoothing: .* at least 0 and below 1, got 1\.0",
    "fo.nn.CrossEntropy(class_weight=[1, -1])": r"ValueError: class_weight: expected a finite .* at least 0, got -1",
    "fo.nn.Huber(delta=-1.0)": r"ValueError: delta: expected a finite number above 0, got -1\.0",
    "fo.metrics.accuracy(classes, dy[:, :1])": r"ValueError: y_pred: expected classes or scores .*\[:, 0\] > 0",
    "fo.metrics.accuracy(classes, dy[:2])": r"ValueError: y_pred: expected classes \(4,\) or scores \(4, k\)",
    "fo.metrics.accuracy([], [])": r"ValueError: y_true: expected classes \(n,\) of at least one row",
    "fo.metrics.r2_score([1.0], [1.0])": r"ValueError: y_true: expected values \(n, k\) of at least two rows",
    "fo.metrics.r2_score(dy, z[:, :2])": r"ValueError: y_pred: expected shape \(4, 5\), got \(4, 2\)",
    "net().value_and_grad(x[:0], classes[:0])": r"ValueError: x: expected at least one row, got none",
    "net().value_and_grad(x, classes + 1)": r"ValueError: targets: expected classes from 0 to 4",
    # the second order
    "fo.newton.step(x, row)": r"ValueError: H: expected shape \(d, d\), got \(4, 3\)",
    "fo.newton.step(np.eye(0), [])": r"ValueError: H: expected shape \(d, d\), got \(0, 0\)",
    "fo.newton.step(np.eye(3), x)": r"ValueError: g: expected shape \(3,\) to match H, got \(4, 3\)",
    "fo.newton.step(np.eye(3, dtype=complex), row)": r"TypeError: H: expected real numbers, got dtype complex128",
    "fo.newton.step(np.eye(3), ['a', 'b', 'c'])": r"TypeError: g: expected real numbers, got dtype <U1",
    "fo.newton.step(np.eye(3), row, -1)": r"ValueError: damping: expected 'auto' or a finite number of at least 0, got",
    "fo.newton.step(np.eye(3), row, np.nan)": r"ValueError: damping: expected 'auto' or .*, got nan",
    "fo.newton.step(np.eye(3), row, method='qr')": r"ValueError: method: expected 'cholesky' or 'saddle_free', got 'q",
    "fo.newton.step(np.eye(4).tolist(), bias, overwrite_h=True)": r"ValueError: H: expected a contiguous, writable",
    "fo.newton.step(read_only[:4, :4], dy[:, 0], overwrite_h=True)": r"ValueError: H: .*pass overwrite_h=False",
    "fo.newton.step(np.eye(3), row, 'auto', overwrite_h=True)": r"ValueError: overwrite_h: expected False with damping",
    "fo.newton.critical_point(np.eye(3), tol=-1)": r"ValueError: tol: expected None or a finite number of at least 0",
    "fo.newton.condition_number(row)": r"ValueError: H: expected shape \(d, d\), got \(3,\)",
    "fo.newton.predicted_change(np.eye(3), row, np.inf)": r"ValueError: lr: expected a finite number, got inf",
    "fo.newton.minimize(3, row)": r"TypeError: objective: expected an object with value, gradient and hessian or hvp",
    "fo.newton.minimize(np.sum, row)": r"TypeError: objective: expected .* with jac=None",
    "fo.newton.minimize(np.sum, row, jac=np.sign)": r"TypeError: objective: expected a hessian .*'newton', got none$",
    "fo.newton.minimize(np.sum, row, jac=np.sign, hessp=np.add)": r"TypeError: objective: .*use method='newton_cg'",
    "fo.newton.minimize(np.sum, row, 'bfgs', jac=np.sign)": r"ValueError: method: expected one of newton, newton_cg, s",
    "fo.newton.minimize(np.sum, x, jac=np.sign)": r"ValueError: x0: expected shape \(d,\), got \(4, 3\)",
    "fo.newton.minimize(np.sum, [np.nan], jac=np.sign)": r"ValueError: x0: expected finite values, got nan at \(0,\)",
    "fo.newton.minimize(np.sum, row, tol=-1)": r"ValueError: tol: expected a finite number of at least 0, got -1",
    "fo.newton.minimize(np.sum, row, max_iter=0)": r"ValueError: max_iter: expected a whole number of at least 1, got",
    "fo.newton.minimize(np.sum, row, jac=np.sum, hess=np.diag)": r"ValueError: objective: expected a gradient of shape",
    "fo.newton.minimize(np.sum, row, jac=np.sign, hess=np.sign)": r"ValueError: objective: expected a hessian of shape",
    "fo.newton.minimize(np.sign, row, jac=np.sign, hess=np.diag)": r"ValueError: objective: expected a number as its",
    "fo.newton.minimize(np.sum, row, jac=lambda x: x * np.nan, hess=np.diag)": r"ValueError: x0: .*value and gradient",
    # threads
    "fo.set_num_threads(0)": r"ValueError: n: expected a whole number .*, got 0",
    "fo.set_num_threads('2')": r"ValueError: n: expected a whole number .*, got '2'",
    "fo.num_threads(True).__enter__()": r"ValueError: n: expected a whole number .*, got True",
    "fo.num_threads(1.5).__enter__()": r"ValueError: n: expected a whole number .*, got 1\.5",
}


@pytest.mark.parametrize("call", [*FUNCTIONAL, *OBJECTS])
def test_an_error_names_argument_expectation_and_finding_and_nothing_is_written(call):
    a = arrays()
    before = {name: value.tobytes() for name, value in a.items()}
    a["sparse"] = scipy.sparse.csr_matrix(a["x"])
    kind, message = {**FUNCTIONAL, **OBJECTS}[call].split(": ", 1)
    with pytest.raises(getattr(builtins, kind), match=f"^{message}"):
        eval(call, {"F": F, "fo": fo, "np": np, "first": first, "second": second, "net": net, "normal": normal, **a})
    assert {name: a[name].tobytes() for name in before} == before


# ---------------------------------------------------------------- what is numerically clear is taken


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda x: np.ma.array(x, mask=False), id="nothing masked"),
        pytest.param(lambda x: x.astype(object), id="object"),
        pytest.param(lambda x: x.astype(">f4"), id="other byte order"),
        pytest.param(lambda x: np.asfortranarray(x), id="columns first"),
        pytest.param(lambda x: np.asmatrix(x), id="matrix"),
        pytest.param(lambda x: x.tolist(), id="list"),
        pytest.param(lambda x: pandas().DataFrame(x), id="frame"),
        pytest.param(lambda x: pandas().DataFrame(x).astype("Float64"), id="nullable frame"),
        pytest.param(lambda x: pandas().DataFrame(x).astype({0: "Float32", 2: "Float64"}), id="mixed frame"),
        pytest.param(lambda x: pytest.importorskip("torch").tensor(x), id="tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_real_numbers_are_taken_in_any_form(given):
    x = arrays()["x"]
    np.testing.assert_array_equal(net().predict(given(x)), net().predict(x))


def pandas():
    return pytest.importorskip("pandas")


def test_frames_of_bools_whole_numbers_and_floats_are_taken():
    frame = pandas().DataFrame({"a": [True, False], "b": [0.5, 1.5], "c": pandas().array([1, 2], dtype="Int64")})
    np.testing.assert_array_equal(net().predict(frame), net().predict([[1, 0.5, 1], [0, 1.5, 2]]))
    loss, _ = F.cross_entropy(np.zeros((2, 3)), pandas().Series([0, 2], dtype="Int64"), sample_weight=frame["a"])
    assert loss == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["u", "v"], r"x\['b'\]: expected real numbers, got .*; number text by"),
        ([1.0, None], None),
        ([1j, 2.0], r"x\['b'\]: expected real numbers, got dtype complex128; pass"),
        (["datetime64[ns]", 1, 2], r"x\['b'\]: expected real numbers, got dtype datetime64"),
    ],
)
def test_the_first_column_that_is_no_number_is_named(column, message):
    dtype, column = (column[0], column[1:]) if len(column) == 3 else (None, column)
    frame = pandas().DataFrame({"a": [True, False], "b": pandas().Series(column, dtype=dtype), "c": ["x", "y"]})
    if message is None:  # NaN is a number, as in any array: the next column is the first that is none
        message = r"x\['c'\]: expected real numbers"
    with pytest.raises(TypeError, match=message):
        net().predict(frame)


def test_tensors_say_what_keeps_them():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        TypeError, match=r"x: expected real numbers.*; a torch tensor needs \.detach\(\), pass x\.detach"
    ):
        net().predict(torch.ones(4, 3, requires_grad=True))
    with pytest.raises(TypeError, match=r"x: expected real numbers.*; NumPy has no bfloat16, pass x\.float\(\)"):
        net().predict(torch.ones(4, 3, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"params\[0\]: .*; a torch tensor needs \.detach\(\)"):
        fo.optim.SGD([torch.ones(3, requires_grad=True)])
    with pytest.raises(TypeError, match=r"params\[0\]: .*; NumPy has no bfloat16, pass params\[0\]\.float\(\)"):
        fo.optim.SGD([torch.ones(3, dtype=torch.bfloat16)])
    state = fo.optim.Adam([np.ones(3)]).state_dict()
    state["state"][0] |= {"step": 1, "exp_avg": torch.ones(3, dtype=torch.bfloat16), "exp_avg_sq": torch.ones(3)}
    with pytest.raises(ValueError, match=r"exp_avg: .*NumPy has no bfloat16, pass exp_avg\.float\(\)"):
        fo.optim.Adam([np.ones(3)]).load_state_dict(state)


# ---------------------------------------------------------------- sizes


MANY = 2**40
NOTHING = {
    "dense": lambda: F.dense(empty(MANY, 0), empty(0, 0), z=empty(MANY, 0), activation="softmax"),
    "dense of no rows": lambda: F.dense(empty(0, 0), empty(MANY, 0)),
    "dense backward": lambda: F.dense_backward(
        empty(MANY, 0), empty(MANY, 0), empty(0, 0), empty(MANY, 0), "tanh", dw=empty(0, 0), db=empty(0)
    ),
    "dense backward of no rows": lambda: F.dense_backward(
        empty(0, MANY), empty(0, 0), empty(MANY, 0), dw=empty(MANY, 0)
    ),
    "grouped dense": lambda: F.grouped_dense(empty(MANY, 0), empty(0, 0), groups=3),
    "activation": lambda: F.activation(empty(MANY, 0), "gelu"),
    "softmax": lambda: F.activation(empty(MANY, 0), "softmax"),
    "exp": lambda: F.exp(empty(3, MANY, 0)),
    "conv2d": lambda: F.conv2d(empty(MANY, 1, 1, 0), empty(0, 1, 1, 0)),
    "conv2d of no images": lambda: F.conv2d(empty(0, 1, MANY, 1), empty(1, 1, 1, 1)),
    "conv2d backward": lambda: F.conv2d_backward(empty(0, 1, MANY, 1), empty(0, 1, MANY, 1), empty(1, 1, 1, 1)),
    "max pool": lambda: F.max_pool2d(empty(MANY, 1, 1, 0), 1),
    "max pool backward": lambda: F.max_pool2d_backward(empty(0, 1, MANY, 1), empty(0, 1, MANY, 1), 1),
    "avg pool": lambda: F.avg_pool2d(empty(0, 1, MANY, 1), 1),
    "avg pool backward": lambda: F.avg_pool2d_backward(empty(0, 1, 1, MANY), (0, 1, 1, MANY), 1),
    "maxout": lambda: F.maxout(empty(MANY, 0)),
    "maxout backward": lambda: F.maxout_backward(empty(MANY, 0), empty(MANY, 0)),
    "standardize": lambda: F.standardize(empty(MANY, 0), empty(0), empty(0)),
    "dropout": lambda: F.dropout(empty(MANY, 0), 0.5, 0),
    "batch statistics": lambda: F.batch_statistics(empty(MANY, 0)),
    "batch norm": lambda: F.batch_norm(empty(MANY, 0)),
    "batch norm backward": lambda: F.batch_norm_backward(empty(MANY, 0), empty(MANY, 0), None, empty(0), empty(0)),
    "batch norm inference": lambda: F.batch_norm_inference(empty(MANY, 0), None, None, empty(0), empty(0)),
    "mse": lambda: F.mse(empty(0, MANY), empty(0, MANY)),
    "cross entropy": lambda: F.cross_entropy(empty(0, MANY), np.empty(0, int)),
    "clipping": lambda: F.clip_grad_norm_([empty(MANY, 0)], 1.0),
    "optimizer": lambda: fo.optim.Adam([empty(MANY, 0)], max_norm=1.0, ema_decay=0.5).step([empty(MANY, 0)]),
}


def empty(*shape):
    return np.empty(shape, np.float32)


@pytest.mark.parametrize("call", NOTHING)
def test_many_rows_of_nothing_take_no_time(call):
    NOTHING[call]()


@pytest.mark.parametrize(
    "call",
    [
        "F.dense(huge, weight)",
        "F.activation(huge, 'relu')",
        "F.mse(huge, huge)",
        "net().predict(huge)",
        "net().evaluate(huge, huge_classes)",
        "fo.nn.Trainer(net(), 'mse', fo.optim.SGD([a for a in net().parameters()]), max_batch=2**62)",
    ],
)
def test_what_memory_cannot_hold_is_an_error_and_no_crash(call):
    huge = np.broadcast_to(np.ones(3, np.float32), (2**44, 3))
    classes = np.broadcast_to(np.int64(0), (2**44,))
    with pytest.raises((MemoryError, ValueError, OverflowError)):
        eval(call, {"F": F, "fo": fo, "np": np, "net": net, "huge": huge, "huge_classes": classes, **arrays()})


class OwnLayer(fo.nn.Layer):
    """A layer as one would write it for another library."""

    def __init__(self):
        self.in_features = self.out_features = 3

    def forward(self, x):
        return x


class OwnRule(fo.optim.Optimizer):
    """An optimizer as one would write it for another library."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})


class OwnData(fo.nn.layers.FromData):
    """A layer of statistics without kernels."""


@pytest.mark.parametrize("wrap", [list, lambda layers: [fo.nn.Residual(layers)]])
@pytest.mark.parametrize("layer", [OwnLayer, fo.nn.Layer, lambda: OwnData(3)])
def test_a_layer_without_kernels_is_refused_by_name_with_what_to_do_instead(layer, wrap):
    with pytest.raises(
        TypeError, match=r"layers\[0\], a \w+: expected a layer that has kernels, .*; compose the layers"
    ):
        fo.nn.Sequential(wrap([layer()]))
    with pytest.raises(NotImplementedError, match=r"config: expected a layer that has kernels"):
        fo.nn.Layer.config(layer())


@pytest.mark.parametrize("rule", [OwnRule, lambda params: fo.optim.Optimizer(params, {})])
def test_an_optimizer_without_a_kernel_is_refused_by_name_with_what_to_do_instead(rule):
    with pytest.raises(
        TypeError, match=r"(OwnRule|Optimizer): expected a rule that has a kernel, .*; start from a rule"
    ):
        rule([np.ones(3)])
