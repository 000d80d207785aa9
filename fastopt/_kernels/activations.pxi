# Activations: value, derivative and second derivative by name, and the loops over arrays. Formulas: math.pxi.
#
# - The same element gives the same bits wherever it stands. One compiled loop works on whole blocks of LANES
#   elements; a tail goes through it in a padded block.
# - A block is finished in a local array before it is stored: in place needs no check.
# - A t before a name is the directional derivative, the tangent, of what the name stands for.

ctypedef struct Identity:
    char _
ctypedef struct Relu:
    char _
ctypedef struct LeakyRelu:
    char _
ctypedef struct Tanh:
    char _
ctypedef struct Sigmoid:
    char _
ctypedef struct Gelu:
    char _
ctypedef struct Silu:
    char _
ctypedef struct Exp:
    char _

ctypedef fused Activation:
    Identity
    Relu
    LeakyRelu
    Tanh
    Sigmoid
    Gelu
    Silu

ctypedef fused Elementwise:  # what has a value loop: exp is not a layer's activation
    Identity
    Relu
    LeakyRelu
    Tanh
    Sigmoid
    Gelu
    Silu
    Exp

cdef enum:
    IDENTITY
    RELU
    LEAKY_RELU
    TANH
    SIGMOID
    GELU
    SILU
    SOFTMAX
    EXP                     # for activate alone

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "softmax")


cdef inline floating activation_value(Elementwise* tag, floating x) noexcept nogil:
    if Elementwise is Identity:
        return x
    elif Elementwise is Relu:
        return relu_element(x)
    elif Elementwise is LeakyRelu:
        return <floating>0.01 * x if x < <floating>0 else x
    elif Elementwise is Tanh:
        return tanh_element(x)
    elif Elementwise is Sigmoid:
        return sigmoid_element(x)
    elif Elementwise is Gelu:
        return gelu_element(x)
    elif Elementwise is Silu:
        return silu_element(x)
    else:
        return exp_element(x)


cdef inline floating activation_derivative(Activation* tag, floating v) noexcept nogil:
    # The derivative by z, from v: v is the preactivation z for gelu and silu, the output y for all others.
    if Activation is Identity:
        return <floating>1
    elif Activation is Relu:
        return <floating>0 if v <= <floating>0 else <floating>1
    elif Activation is LeakyRelu:
        return <floating>1 if v > <floating>0 else <floating>0.01
    elif Activation is Tanh:
        return <floating>1 - v * v
    elif Activation is Sigmoid:
        return v * (<floating>1 - v)
    elif Activation is Gelu:
        return gelu_derivative(v)
    else:
        return silu_derivative(v)


cdef inline floating activation_second_derivative(Activation* tag, floating v) noexcept nogil:
    # The derivative of activation_derivative by its v; at a kink 0.
    if Activation is Tanh:
        return <floating>-2 * v
    elif Activation is Sigmoid:
        return <floating>1 - <floating>2 * v
    elif Activation is Gelu:
        return gelu_second_derivative(v)
    elif Activation is Silu:
        return silu_second_derivative(v)
    else:
        return <floating>0


# ---------------------------------------------------------------- loops over arrays

cdef noinline_void value_blocks(Elementwise* tag, const floating* x, floating* y,
                                Py_ssize_t blocks) noexcept nogil:
    cdef floating out[LANES]
    cdef Py_ssize_t i, j
    for i in range(blocks):
        for j in range(LANES):
            out[j] = activation_value(tag, x[j])
        for j in range(LANES):
            y[j] = out[j]
        x += LANES
        y += LANES


cdef void value_loop(Elementwise* tag, const floating* x, floating* y,
                     Py_ssize_t n) noexcept nogil:
    # x (n,) -> y (n,), which may be x itself
    cdef floating block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES
    value_blocks(tag, x, y, blocks)
    if main < n:
        load_padded(block, x + main, n - main, <floating>0)
        value_blocks(tag, <const floating*>block, block, 1)
        store_partial(y + main, block, n - main)


cdef noinline_void derivative_blocks(Activation* tag, const floating* v, const floating* dy,
                                     floating* dz, Py_ssize_t blocks) noexcept nogil:
    cdef floating out[LANES]
    cdef Py_ssize_t i, j
    for i in range(blocks):
        for j in range(LANES):
            out[j] = dy[j] * activation_derivative(tag, v[j])
        for j in range(LANES):
            dz[j] = out[j]
        v += LANES
        dy += LANES
        dz += LANES


cdef void derivative_loop(Activation* tag, const floating* v, const floating* dy,
                          floating* dz, Py_ssize_t n) noexcept nogil:
    # dz = dy * derivative(v), all (n,); dz may be dy or v itself
    cdef floating v_block[LANES]
    cdef floating block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES
    derivative_blocks(tag, v, dy, dz, blocks)
    if main < n:
        load_padded(v_block, v + main, n - main, <floating>0)
        load_padded(block, dy + main, n - main, <floating>0)
        derivative_blocks(tag, <const floating*>v_block, <const floating*>block, block, 1)
        store_partial(dz + main, block, n - main)


cdef noinline_void second_derivative_blocks(Activation* tag, const floating* v, const floating* tv, floating* dy,
                                            floating* tdy, Py_ssize_t blocks) noexcept nogil:
    cdef floating out[LANES]
    cdef floating tout[LANES]
    cdef floating derivative
    cdef Py_ssize_t i, j
    for i in range(blocks):
        for j in range(LANES):
            derivative = activation_derivative(tag, v[j])
            out[j] = dy[j] * derivative
            tout[j] = tdy[j] * derivative + dy[j] * (activation_second_derivative(tag, v[j]) * tv[j])
        for j in range(LANES):
            dy[j] = out[j]
        for j in range(LANES):
            tdy[j] = tout[j]
        v += LANES
        tv += LANES
        dy += LANES
        tdy += LANES


cdef void second_derivative_loop(Activation* tag, const floating* v, const floating* tv, floating* dy, floating* tdy,
                                 Py_ssize_t n) noexcept nogil:
    # dy becomes dz = dy derivative(v), tdy its derivative tdy derivative(v) + dy second_derivative(v) tv, all (n,)
    cdef floating v_block[LANES]
    cdef floating tv_block[LANES]
    cdef floating block[LANES]
    cdef floating tblock[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES
    second_derivative_blocks(tag, v, tv, dy, tdy, blocks)
    if main < n:
        load_padded(v_block, v + main, n - main, <floating>0)
        load_padded(tv_block, tv + main, n - main, <floating>0)
        load_padded(block, dy + main, n - main, <floating>0)
        load_padded(tblock, tdy + main, n - main, <floating>0)
        second_derivative_blocks(tag, <const floating*>v_block, <const floating*>tv_block, block, tblock, 1)
        store_partial(dy + main, block, n - main)
        store_partial(tdy + main, tblock, n - main)


cdef void activate(int kind, const floating* x, floating* y,
                   Py_ssize_t n) noexcept nogil:
    # x (n,) -> y (n,), in place if x == y; every kind but softmax
    if kind == RELU:
        value_loop(<Relu*>NULL, x, y, n)
    elif kind == LEAKY_RELU:
        value_loop(<LeakyRelu*>NULL, x, y, n)
    elif kind == TANH:
        value_loop(<Tanh*>NULL, x, y, n)
    elif kind == SIGMOID:
        value_loop(<Sigmoid*>NULL, x, y, n)
    elif kind == GELU:
        value_loop(<Gelu*>NULL, x, y, n)
    elif kind == SILU:
        value_loop(<Silu*>NULL, x, y, n)
    elif kind == EXP:
        value_loop(<Exp*>NULL, x, y, n)
    elif x != y:
        value_loop(<Identity*>NULL, x, y, n)


cdef void activate_backward(int kind, const floating* v, const floating* dy,
                            floating* dz, Py_ssize_t n) noexcept nogil:
    # dz = dy * derivative(v), v as activation_derivative wants it; dz may be dy or v
    if kind == RELU:
        derivative_loop(<Relu*>NULL, v, dy, dz, n)
    elif kind == LEAKY_RELU:
        derivative_loop(<LeakyRelu*>NULL, v, dy, dz, n)
    elif kind == TANH:
        derivative_loop(<Tanh*>NULL, v, dy, dz, n)
    elif kind == SIGMOID:
        derivative_loop(<Sigmoid*>NULL, v, dy, dz, n)
    elif kind == GELU:
        derivative_loop(<Gelu*>NULL, v, dy, dz, n)
    elif kind == SILU:
        derivative_loop(<Silu*>NULL, v, dy, dz, n)
    elif dy != dz:
        derivative_loop(<Identity*>NULL, v, dy, dz, n)


cdef void activate_tangent_backward(int kind, const floating* v, const floating* tv, floating* dy, floating* tdy,
                                    Py_ssize_t n) noexcept nogil:
    # as second_derivative_loop, in place; every kind but softmax
    if kind == RELU:
        second_derivative_loop(<Relu*>NULL, v, tv, dy, tdy, n)
    elif kind == LEAKY_RELU:
        second_derivative_loop(<LeakyRelu*>NULL, v, tv, dy, tdy, n)
    elif kind == TANH:
        second_derivative_loop(<Tanh*>NULL, v, tv, dy, tdy, n)
    elif kind == SIGMOID:
        second_derivative_loop(<Sigmoid*>NULL, v, tv, dy, tdy, n)
    elif kind == GELU:
        second_derivative_loop(<Gelu*>NULL, v, tv, dy, tdy, n)
    elif kind == SILU:
        second_derivative_loop(<Silu*>NULL, v, tv, dy, tdy, n)
