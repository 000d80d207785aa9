# Activations: the formula on one element, the loops over arrays, row-wise softmax.
#
# - Each formula is written once, without branches on data, and left to the
#   compiler's vectoriser; float and double share the text, only coefficients differ.
# - exp, tanh and sigmoid stay within 2 ULP, gelu and silu within 4, without FMA too:
#   exp comes in two factors and gelu's tail is relative to exp(-a^2/2), so nothing
#   cancels and a denormal result is rounded once.
# - The same element gives the same bits wherever it stands. One compiled loop works
#   on whole blocks of LANES elements; a tail goes through it in a padded block.
# - A block is finished in a local array before it is stored: in place needs no check.
# - Literals in mixed expressions carry a <floating> cast: bare ones are doubles.

from libc.math cimport INFINITY

cdef extern from "bits.h" nogil:
    # Macros over both types, declared for double: the result goes to a typed local.
    double absolute "fastopt_abs"(double x)
    double copy_sign "fastopt_copysign"(double x, double sign)
    double head_of "fastopt_head"(double x)
    double power_of_two "fastopt_power_of_two"(double k)
    ctypedef void one_body_void "FASTOPT_ONE_BODY void"

cdef enum:
    LANES = 16


# --- formulas on one element -------------------------------------------------------

cdef inline floating at_most(floating x, floating limit) noexcept nogil:
    # NaN passes through.
    return limit if x > limit else x


cdef inline floating at_least(floating x, floating limit) noexcept nogil:
    # As above; a NaN limit is passed over.
    return limit if x < limit else x


cdef inline floating nearest(floating x) noexcept nogil:
    # 1.5 * 2^23 (1.5 * 2^52) leaves no bits for a fraction; |x| is far below it.
    cdef floating magic
    if floating is float:
        magic = 12582912.0
    else:
        magic = 6755399441055744.0
    return (x + magic) - magic


cdef inline floating exp_polynomial(floating r) noexcept nogil:
    # (exp(r) - 1 - r) / r^2 on |r| <= 0.3475. Remez in 45 digits, then rounded:
    # exp is off by at most 4.0e-9 (float), 7.6e-18 (double), relative.
    cdef floating p
    if floating is float:
        p = <floating>1.3814252e-03
        p = p * r + <floating>8.368898e-03
        p = p * r + <floating>4.1668404e-02
        p = p * r + <floating>1.666652e-01
        p = p * r + <floating>4.9999994e-01
    else:
        p = 2.4999810702188528e-08
        p = p * r + 2.7630621459723615e-07
        p = p * r + 2.755758905989299e-06
        p = p * r + 2.4801492134505306e-05
        p = p * r + 0.00019841269501491733
        p = p * r + 0.0013888888944470885
        p = p * r + 0.008333333333497736
        p = p * r + 0.041666666666527366
        p = p * r + 0.16666666666666405
        p = p * r + 0.5000000000000011
    return p


cdef inline floating exp_parts(floating x, floating rest, floating* scale) noexcept nogil:
    # exp(x + rest) = u * scale, |x| < 170 (float), 1400 (double), rest small or -0.0.
    # scale and u / exp(r) are both powers of two near 2^(n/2): u is normal however
    # small the result, and a product with u, then with scale, is rounded only once
    # below the normal range. Adding rest = -0.0 changes nothing and compiles away.
    cdef floating n, half, r, u, ln2_head, ln2_rest
    if floating is float:
        ln2_head = 0.693145751953125  # 16 bits: n * ln2_head is exact
        ln2_rest = 1.4286068203094173e-06
    else:
        ln2_head = 0.6931471805598903  # 42 bits
        ln2_rest = 5.497923018708371e-14
    n = nearest((x + rest) * <floating>1.4426950408889634)
    r = (x - n * ln2_head) + (rest - n * ln2_rest)
    u = <floating>1 + (r + r * r * exp_polynomial(r))
    half = nearest(n * <floating>0.5)
    scale[0] = power_of_two(n - half)
    n = power_of_two(half)
    return u * n


cdef inline floating exp_element(floating x) noexcept nogil:
    # The limits lie just past the ends, where exp is 0 or inf already.
    cdef floating u, low, high, scale = 0
    if floating is float:
        low, high = -104.0, 89.0
    else:
        low, high = -746.0, 710.0
    u = exp_parts(at_least(at_most(x, high), low), <floating>-0.0, &scale)
    return u * scale


cdef inline floating tanh_polynomial(floating z) noexcept nogil:
    # (tanh(a) / a - 1) / z with z = a^2, a <= 0.625. Remez in 45 digits, then
    # rounded: tanh is off by at most 8.5e-9 (float), 1.4e-17 (double), relative.
    cdef floating p
    if floating is float:
        p = <floating>-5.7049743e-03
        p = p * z + <floating>2.0639079e-02
        p = p * z - <floating>5.3739715e-02
        p = p * z + <floating>1.3331442e-01
        p = p * z - <floating>3.333328e-01
    else:
        p = -1.607255106016033e-05
        p = p * z + 7.714432718293997e-05
        p = p * z - 0.00022856417379931937
        p = p * z + 0.0005863165196488829
        p = p * z - 0.0014549588706066704
        p = p * z + 0.0035919891720744847
        p = p * z - 0.008863221002362757
        p = p * z + 0.021869487576068998
        p = p * z - 0.05396825393126632
        p = p * z + 0.13333333333262087
        p = p * z - 0.33333333333332854
    return p


cdef inline floating tanh_element(floating x) noexcept nogil:
    # 1 - 2 / (exp(2a) + 1) loses digits near 0, where the polynomial takes over.
    cdef floating a = absolute(x), small, large, u, z, scale = 0
    u = exp_parts(<floating>2 * at_most(a, <floating>20), <floating>-0.0, &scale)
    large = <floating>1 - <floating>2 / (u * scale + <floating>1)
    z = a * a
    small = a + a * (z * tanh_polynomial(z))
    a = small if a < <floating>0.6 else large
    a = copy_sign(a, x)
    return a


cdef inline floating sigmoid_element(floating x) noexcept nogil:
    # e = exp(-|x|) <= 1: 1 / (1 + e) right of 0, e / (1 + e) left of it.
    cdef floating a = absolute(x), e
    e = exp_element(-a)
    a = <floating>1 if x >= <floating>0 else e
    return a / (<floating>1 + e)


cdef inline floating relu_element(floating x) noexcept nogil:
    # NaN and -0.0 stay.
    return <floating>0 if x < <floating>0 else x


# silu and gelu are x F(x) with F(-x) = 1 - F(x), so both equal relu(x) - a F(-a) with
# a = |x|, and their slope is c left of 0 and 1 - c right of it, c that at -a. Only
# the small tail F(-a) is computed; a is cut where a F(-a) is 0 already.

cdef inline floating silu_element(floating x) noexcept nogil:
    # a F(-a) = a e / (1 + e), e = exp(-a) = u * scale
    cdef floating a = absolute(x), u, scale = 0
    if floating is float:
        a = at_most(a, <floating>112)
    else:
        a = at_most(a, <floating>760)
    u = exp_parts(-a, <floating>-0.0, &scale)
    return relu_element(x) - a * u / (<floating>1 + u * scale) * scale


cdef inline floating silu_slope(floating z) noexcept nogil:
    # c = e / (1 + e) (1 - a / (1 + e))
    cdef floating a = absolute(z), e, q, c
    if floating is float:
        a = at_most(a, <floating>112)
    else:
        a = at_most(a, <floating>760)
    e = exp_element(-a)
    q = <floating>1 / (<floating>1 + e)
    c = e * q * (<floating>1 - a * q)
    return c if z < <floating>0 else <floating>1 - c


cdef inline floating mills_polynomial(floating t) noexcept nogil:
    # (a + k) Phi(-a) exp(a^2/2) with t = (a - k) / (a + k), k = 3.75 (float), 5
    # (double), 0 <= a <= 15, 39. Remez in 45 digits, weighted to relative error, then
    # rounded: off by at most 3.4e-8 (float), 5.9e-17 (double).
    cdef floating p
    if floating is float:
        p = <floating>4.4344694e-04
        p = p * t + <floating>5.096254e-04
        p = p * t - <floating>4.169016e-03
        p = p * t + <floating>1.200076e-03
        p = p * t + <floating>3.7492506e-02
        p = p * t - <floating>1.5152083e-01
        p = p * t + <floating>3.529396e-01
        p = p * t - <floating>5.881883e-01
        p = p * t + <floating>7.502941e-01
    else:
        p = 2.013902436958566e-09
        p = p * t + 7.181943098098356e-09
        p = p * t - 1.0210863435917467e-08
        p = p * t - 6.531975260025713e-08
        p = p * t + 4.361231110558925e-08
        p = p * t + 4.326863350005307e-07
        p = p * t - 3.377431145401389e-07
        p = p * t - 2.769055142265199e-06
        p = p * t + 3.9814912349759125e-06
        p = p * t + 1.6681144810196832e-05
        p = p * t - 4.976301023857796e-05
        p = p * t - 5.93757112763623e-05
        p = p * t + 0.0005448991058687279
        p = p * t - 0.0007978694014804476
        p = p * t - 0.002993376775695946
        p = p * t + 0.02079506680024232
        p = p * t - 0.06911863870595199
        p = p * t + 0.16502036617036156
        p = p * t - 0.3135331566713157
        p = p * t + 0.495305615969977
        p = p * t - 0.6653825028900566
        p = p * t + 0.769193049750063
    return p


cdef inline floating mills_ratio(floating a) noexcept nogil:
    # Phi(-a) exp(a^2/2), a >= 0, in the variable of Shepherd & Laframboise (1981).
    cdef floating k, inverse
    if floating is float:
        k = 3.75
    else:
        k = 5.0
    inverse = <floating>1 / (a + k)
    return inverse * mills_polynomial((a - k) * inverse)


cdef inline floating gauss_parts(floating a, floating* scale) noexcept nogil:
    # exp(-a^2/2) = u * scale. a^2 = head^2 + (a - head)(a + head), the first exact.
    cdef floating head = head_of(a)
    return exp_parts(<floating>-0.5 * head * head,
                     <floating>-0.5 * (a - head) * (a + head), scale)


cdef inline floating gelu_element(floating x) noexcept nogil:
    # x Phi(x) = relu(x) - a Phi(-a)
    cdef floating a = absolute(x), u, scale = 0
    if floating is float:
        a = at_most(a, <floating>15)
    else:
        a = at_most(a, <floating>39)
    u = gauss_parts(a, &scale)
    return relu_element(x) - a * mills_ratio(a) * u * scale


cdef inline floating gelu_slope(floating z) noexcept nogil:
    # c = Phi(-a) - a phi(a), phi(a) = exp(-a^2/2) / sqrt(2 pi)
    cdef floating a = absolute(z), u, c, scale = 0
    if floating is float:
        a = at_most(a, <floating>15)
    else:
        a = at_most(a, <floating>39)
    u = gauss_parts(a, &scale)
    c = (mills_ratio(a) - a * <floating>0.3989422804014327) * u * scale
    return c if z < <floating>0 else <floating>1 - c


# --- the rules by name and by code -------------------------------------------------

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

ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "softmax",
)


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


cdef inline floating activation_slope(Activation* tag, floating v) noexcept nogil:
    # v is the pre-activation z for gelu and silu, the output y for all others.
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
        return gelu_slope(v)
    else:
        return silu_slope(v)


# --- loops over arrays -------------------------------------------------------------

cdef inline void fill(floating* block, const floating* x, Py_ssize_t n,
                      floating padding) noexcept nogil:
    # The first n < LANES elements of a block from x, the others padding.
    cdef Py_ssize_t j
    for j in range(LANES):
        block[j] = padding
    for j in range(n):
        block[j] = x[j]


cdef one_body_void value_blocks(Elementwise* tag, const floating* x, floating* y,
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
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES, j
    value_blocks(tag, x, y, blocks)
    if main < n:
        fill(block, x + main, n - main, <floating>0)
        value_blocks(tag, <const floating*>block, block, 1)
        for j in range(n - main):
            y[main + j] = block[j]


cdef one_body_void slope_blocks(Activation* tag, const floating* v, const floating* dy,
                                floating* dz, Py_ssize_t blocks) noexcept nogil:
    cdef floating out[LANES]
    cdef Py_ssize_t i, j
    for i in range(blocks):
        for j in range(LANES):
            out[j] = dy[j] * activation_slope(tag, v[j])
        for j in range(LANES):
            dz[j] = out[j]
        v += LANES
        dy += LANES
        dz += LANES


cdef void slope_loop(Activation* tag, const floating* v, const floating* dy,
                     floating* dz, Py_ssize_t n) noexcept nogil:
    # dz = dy * slope(v), all (n,); dz may be dy or v itself
    cdef floating v_block[LANES]
    cdef floating block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES, j
    slope_blocks(tag, v, dy, dz, blocks)
    if main < n:
        fill(v_block, v + main, n - main, <floating>0)
        fill(block, dy + main, n - main, <floating>0)
        slope_blocks(tag, <const floating*>v_block, <const floating*>block, block, 1)
        for j in range(n - main):
            dz[main + j] = block[j]


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
    elif x != y:
        value_loop(<Identity*>NULL, x, y, n)


cdef void activate_backward(int kind, const floating* v, const floating* dy,
                            floating* dz, Py_ssize_t n) noexcept nogil:
    # dz = dy * slope(v), v as activation_slope wants it; dz may be dy or v
    if kind == RELU:
        slope_loop(<Relu*>NULL, v, dy, dz, n)
    elif kind == LEAKY_RELU:
        slope_loop(<LeakyRelu*>NULL, v, dy, dz, n)
    elif kind == TANH:
        slope_loop(<Tanh*>NULL, v, dy, dz, n)
    elif kind == SIGMOID:
        slope_loop(<Sigmoid*>NULL, v, dy, dz, n)
    elif kind == GELU:
        slope_loop(<Gelu*>NULL, v, dy, dz, n)
    elif kind == SILU:
        slope_loop(<Silu*>NULL, v, dy, dz, n)
    elif dy != dz:
        slope_loop(<Identity*>NULL, v, dy, dz, n)


# --- softmax over rows -------------------------------------------------------------

cdef inline floating lane_sum(floating* lane) noexcept nogil:
    # A halving tree over the LANES partial sums, which it overwrites.
    cdef Py_ssize_t width = LANES // 2, j
    while width > 0:
        for j in range(width):
            lane[j] += lane[j + width]
        width //= 2
    return lane[0]


cdef floating row_max(const floating* x, Py_ssize_t n) noexcept nogil:
    # NaN is passed over: exp_sum_row will meet it.
    cdef floating lane[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        lane[j] = <floating>-INFINITY
    for i in range(n // LANES):
        for j in range(LANES):
            lane[j] = at_least(lane[j], x[j])
        x += LANES
    for j in range(n % LANES):
        lane[j] = at_least(lane[j], x[j])
    for j in range(1, LANES):
        lane[0] = at_least(lane[0], lane[j])
    return lane[0]


cdef one_body_void exp_sum_blocks(const floating* x, floating shift, floating* e,
                                  floating* lane, Py_ssize_t blocks) noexcept nogil:
    # e = exp(x - shift); lane[j] grows by the elements j, j + LANES, j + 2 LANES, ...
    cdef floating out[LANES]
    cdef floating partial[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        for j in range(LANES):
            out[j] = exp_element(x[j] - shift)
        for j in range(LANES):
            partial[j] += out[j]
        for j in range(LANES):
            e[j] = out[j]
        x += LANES
        e += LANES
    for j in range(LANES):
        lane[j] = partial[j]


cdef floating exp_sum_row(const floating* x, floating shift, floating* e,
                          Py_ssize_t n) noexcept nogil:
    # e (n,) = exp(x - shift), in place if e == x; returns the sum of e
    cdef floating lane[LANES]
    cdef floating block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES, j
    for j in range(LANES):
        lane[j] = <floating>0
    exp_sum_blocks(x, shift, e, lane, blocks)
    if main < n:
        fill(block, x + main, n - main, <floating>-INFINITY)  # exp of it adds 0
        exp_sum_blocks(<const floating*>block, shift, block, lane, 1)
        for j in range(n - main):
            e[main + j] = block[j]
    return lane_sum(lane)


cdef void softmax_rows(const floating* x, floating* y, Py_ssize_t rows,
                       Py_ssize_t cols) noexcept nogil:
    # x (rows, cols) -> y (rows, cols), in place if x == y
    # y = exp(x - max) / sum(exp(x - max)); NaN or +inf in a row make all of it NaN
    cdef floating inverse
    cdef Py_ssize_t i, j
    for i in range(rows):
        inverse = <floating>1 / exp_sum_row(x, row_max(x, cols), y, cols)
        for j in range(cols):
            y[j] *= inverse
        x += cols
        y += cols


cdef void softmax_rows_backward(const floating* y, const floating* dy, floating* dz,
                                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    # y, dy (rows, cols) -> dz = y * (dy - sum(dy * y)), in place if dz is dy or y
    cdef floating mean
    cdef Py_ssize_t i, j
    for i in range(rows):
        mean = product_sum(y, dy, cols)
        for j in range(cols):
            dz[j] = y[j] * (dy[j] - mean)
        y += cols
        dy += cols
        dz += cols


cdef one_body_void product_blocks(const floating* a, const floating* b, floating* lane,
                                  Py_ssize_t blocks) noexcept nogil:
    cdef floating partial[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        for j in range(LANES):
            partial[j] += a[j] * b[j]
        a += LANES
        b += LANES
    for j in range(LANES):
        lane[j] = partial[j]


cdef floating product_sum(const floating* a, const floating* b,
                          Py_ssize_t n) noexcept nogil:
    # sum(a * b) in the lane order of exp_sum_row
    cdef floating lane[LANES]
    cdef floating a_block[LANES]
    cdef floating b_block[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES, j
    for j in range(LANES):
        lane[j] = <floating>0
    product_blocks(a, b, lane, blocks)
    if main < n:
        fill(a_block, a + main, n - main, <floating>0)
        fill(b_block, b + main, n - main, <floating>0)
        product_blocks(<const floating*>a_block, <const floating*>b_block, lane, 1)
    return lane_sum(lane)
