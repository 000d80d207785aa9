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
# - A t before a name is the directional derivative, the tangent, of what the name stands for.
# - Literals in mixed expressions carry a <floating> cast: bare ones are doubles.

from libc.math cimport INFINITY

cdef extern from "bits.h" nogil:
    # Macros over both types, declared for double: the result goes to a typed local.
    double absolute "fastopt_abs"(double x)
    double root "fastopt_sqrt"(double x)
    double quotient "fastopt_quotient"(double a, double b, double most)
    const float MOST_FLOAT "FASTOPT_MOST_FLOAT"         # what quotient takes for `most`
    const double MOST_DOUBLE "FASTOPT_MOST_DOUBLE"
    double copy_sign "fastopt_copysign"(double x, double sign)
    double minus_half_square "fastopt_minus_half_square"(double a, void* rest)
    double power_from_low_bits "fastopt_power_from_low_bits"(double x)
    # The first n < LANES elements of x into a block whose others are padding, and back.
    void fill "fastopt_fill"(void* block, const void* x, Py_ssize_t n, double padding)
    void spill "fastopt_spill"(void* x, const void* block, Py_ssize_t n)
    ctypedef void one_body_void "FASTOPT_ONE_BODY void"
    void prefetch "__builtin_prefetch"(const void* p)

cdef enum:
    LANES = 16


# --- formulas on one element -------------------------------------------------------

cdef inline floating at_most(floating x, floating limit) noexcept nogil:
    # NaN passes through.
    return limit if x > limit else x


cdef inline floating at_least(floating x, floating limit) noexcept nogil:
    # As above; a NaN limit is passed over.
    return limit if x < limit else x


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


cdef inline floating exponent_magic(floating shift) noexcept nogil:
    # Added to x, 1.5 * 2^23 (1.5 * 2^52) rounds it to an integer k; with the bias of
    # the exponent and shift, an integer, power_from_low_bits finds 2^(k + shift).
    if floating is float:
        return <floating>12583039 + shift
    else:
        return 6755399441056767.0 + shift


cdef inline floating exp_reduced(floating x, floating rest, floating shift,
                                 floating* power) noexcept nogil:
    # exp(x + rest) 2^shift = power (1 + y), power = 2^(n + shift), |y| < 0.42. Returns
    # y, which callers add where it is rounded least; they choose shift so that power
    # is a normal number and undo it last, so that a denormal result is rounded once.
    # rest is small, or -0.0, whose addition compiles away.
    cdef floating magic = exponent_magic(shift), ln2_head, ln2_rest, n, r
    if floating is float:
        ln2_head = 0.693145751953125  # 16 bits: n * ln2_head is exact
        ln2_rest = 1.4286068203094173e-06
    else:
        ln2_head = 0.6931471805598903  # 42 bits
        ln2_rest = 5.497923018708371e-14
    n = (x + rest) * <floating>1.4426950408889634 + magic
    power[0] = power_from_low_bits(n)
    n = n - magic
    r = x - n * ln2_head + rest - n * ln2_rest
    return r + r * r * exp_polynomial(r)


cdef inline floating exp_element(floating x) noexcept nogil:
    # |x| is cut where power is 2^127 (2^1023) and the result inf, or where n + shift
    # is one below the normal numbers and power 0: exp(-inf) takes no slow denormals.
    cdef floating a = absolute(x), shift, y, power = 0, back
    if floating is float:
        a, shift = at_most(a, <floating>132.4), -64.0
    else:
        a, shift = at_most(a, 1064.0), -512.0
    a = copy_sign(a, x)
    shift = copy_sign(shift, x)
    y = exp_reduced(a, <floating>-0.0, -shift, &power)
    back = power_from_low_bits(exponent_magic(shift))
    return (<floating>1 + y) * power * back


cdef inline floating exp_below(floating x) noexcept nogil:
    # exp of x <= 0, where results below the normal numbers may be 0: a softmax adds 1 to them.
    cdef floating y, power = 0
    if floating is float:
        y = exp_reduced(at_least(x, <floating>-88), <floating>-0.0, <floating>0, &power)
    else:
        y = exp_reduced(at_least(x, -709.0), <floating>-0.0, <floating>0, &power)
    return power + power * y


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
    # 1 - 2 / (exp(2a) + 1), a = |x|, loses digits near 0: there the polynomial.
    cdef floating a = absolute(x), small, large, y, z, power = 0
    y = exp_reduced(<floating>2 * at_most(a, <floating>20), <floating>-0.0, <floating>0,
                    &power)
    large = <floating>1 - <floating>2 / (power + (power * y + <floating>1))
    z = a * a
    small = a + a * (z * tanh_polynomial(z))
    a = small if a < <floating>0.6 else large
    a = copy_sign(a, x)
    return a


cdef inline floating relu_element(floating x) noexcept nogil:
    # NaN and -0.0 stay.
    return <floating>0 if x < <floating>0 else x


# sigmoid and the normal distribution have F(x) = 1 - F(-x). So x F(x), silu and gelu,
# is relu(x) - a F(-a) with a = |x|, and its slope is c left of 0 and 1 - c right of it,
# c being the slope at -a. Only the small tail is ever computed.

cdef inline floating logistic_argument(floating x) noexcept nogil:
    # |x|, cut where power in logistic_tail is 2^127 (2^1023) and the tail long 0.
    cdef floating a = absolute(x)
    if floating is float:
        return at_most(a, <floating>132.7)
    else:
        return at_most(a, 1064.3)


cdef inline floating logistic_tail(floating numerator, floating a) noexcept nogil:
    # numerator / (1 + exp(a)), fraction reduced by 2^64 (2^512) = 1 / one. The smaller
    # two of one + power + power y are added first: 1 + y is never rounded.
    cdef floating shift, one, y, power = 0
    if floating is float:
        shift, one = -64.0, 5.421010862427522e-20
    else:
        shift, one = -512.0, 7.458340731200207e-155
    y = exp_reduced(a, <floating>-0.0, shift, &power)
    return numerator / (power + (power * y + one)) * one


cdef inline floating sigmoid_element(floating x) noexcept nogil:
    cdef floating q = logistic_tail(<floating>1, logistic_argument(x))
    return q if x < <floating>0 else <floating>1 - q


cdef inline floating silu_element(floating x) noexcept nogil:
    cdef floating a = logistic_argument(x)
    return relu_element(x) - logistic_tail(a, a)


cdef inline floating silu_slope(floating z) noexcept nogil:
    # c = q (1 - a (1 - q)), q = sigmoid(-a)
    cdef floating a = logistic_argument(z), q, c
    q = logistic_tail(<floating>1, a)
    c = q * (<floating>1 - a * (<floating>1 - q))
    return c if z < <floating>0 else <floating>1 - c


cdef inline floating silu_bend(floating z) noexcept nogil:
    # the slope's derivative, q (1 - q) (2 - a (1 - 2 q)); the same at z and -z
    cdef floating a = logistic_argument(z), q
    q = logistic_tail(<floating>1, a)
    return q * (<floating>1 - q) * (<floating>2 - a * (<floating>1 - <floating>2 * q))


cdef inline floating gauss_argument(floating x) noexcept nogil:
    # |x|, cut where power in times_gauss is 0.
    cdef floating a = absolute(x)
    if floating is float:
        return at_most(a, <floating>16.272)
    else:
        return at_most(a, 46.13)


cdef inline floating times_gauss(floating factor, floating a) noexcept nogil:
    # factor exp(-a^2/2), the square in two parts
    cdef floating shift, small, y, power = 0, rest = 0, square = minus_half_square(a, &rest)
    if floating is float:
        shift, small = 64.0, 5.421010862427522e-20
    else:
        shift, small = 512.0, 7.458340731200207e-155
    y = exp_reduced(square, rest, shift, &power)
    return (factor + factor * y) * power * small


# Phi(-a) exp(a^2/2) = p(v) / (a + k), v = a / (a + k), as Shepherd & Laframboise (1981)
# do for erfc. k and the centre of the polynomial were chosen for the least rounding.

cdef inline floating mills_denominator(floating a) noexcept nogil:
    if floating is float:
        return a + <floating>3.75
    else:
        return a + <floating>3


cdef inline floating mills_polynomial(floating v) noexcept nogil:
    # p(v) for a <= 13.28 (float), 39 (double); past them a tail is denormal or 0. Minimax (Remez, Lawson),
    # then rounded: off by at most 1.5e-8 (float), 1.5e-16 (double), relative.
    cdef floating p, t
    if floating is float:
        t = v - <floating>0.5
        p = <floating>0.11350137
        p = p * t + <floating>0.0652073473
        p = p * t - <floating>0.266824126
        p = p * t + <floating>0.038403701
        p = p * t + <floating>0.599880815
        p = p * t - <floating>1.21216667
        p = p * t + <floating>1.41175842
        p = p * t - <floating>1.17637658
        p = p * t + <floating>0.750294089
    else:
        t = v - 0.5
        p = -0.03982483655994943
        p = p * t - 0.0544687762946158
        p = p * t + 0.034733949793524774
        p = p * t + 0.09889216108447824
        p = p * t + 0.029637901744475774
        p = p * t - 0.07140448020098324
        p = p * t - 0.07952778522905814
        p = p * t + 0.0005003572624400986
        p = p * t + 0.07421896995465727
        p = p * t + 0.059639343765929796
        p = p * t - 0.028845131802990795
        p = p * t - 0.08474272086004957
        p = p * t - 0.02712601469794791
        p = p * t + 0.08070417898653447
        p = p * t + 0.07904988453358747
        p = p * t - 0.06568328896076744
        p = p * t - 0.13386606146623412
        p = p * t + 0.06576590459324101
        p = p * t + 0.22312387965954492
        p = p * t - 0.16740587237310636
        p = p * t - 0.37810420114351084
        p = p * t + 0.9200708798984152
        p = p * t - 1.0186639638349795
        p = p * t + 0.729083690133373
    return p


cdef inline floating gelu_element(floating x) noexcept nogil:
    # a Phi(-a) = v p(v) exp(-a^2/2)
    cdef floating a = gauss_argument(x), v
    v = a / mills_denominator(a)
    return relu_element(x) - times_gauss(v * mills_polynomial(v), a)


cdef inline floating gelu_slope(floating z) noexcept nogil:
    # c = Phi(-a) - a phi(a), phi(a) = exp(-a^2/2) / sqrt(2 pi)
    cdef floating a = gauss_argument(z), inverse, c
    inverse = <floating>1 / mills_denominator(a)
    c = inverse * mills_polynomial(a * inverse) - a * <floating>0.3989422804014327
    c = times_gauss(c, a)
    return c if z < <floating>0 else <floating>1 - c


cdef inline floating gelu_bend(floating z) noexcept nogil:
    # the slope's derivative, (2 - a^2) phi(a)
    cdef floating a = gauss_argument(z)
    return times_gauss((<floating>2 - a * a) * <floating>0.3989422804014327, a)


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


cdef inline floating activation_bend(Activation* tag, floating v) noexcept nogil:
    # the derivative of activation_slope by its v; at a kink 0
    if Activation is Tanh:
        return <floating>-2 * v
    elif Activation is Sigmoid:
        return <floating>1 - <floating>2 * v
    elif Activation is Gelu:
        return gelu_bend(v)
    elif Activation is Silu:
        return silu_bend(v)
    else:
        return <floating>0


# --- loops over arrays -------------------------------------------------------------

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
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES
    value_blocks(tag, x, y, blocks)
    if main < n:
        fill(block, x + main, n - main, <floating>0)
        value_blocks(tag, <const floating*>block, block, 1)
        spill(y + main, block, n - main)


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
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES
    slope_blocks(tag, v, dy, dz, blocks)
    if main < n:
        fill(v_block, v + main, n - main, <floating>0)
        fill(block, dy + main, n - main, <floating>0)
        slope_blocks(tag, <const floating*>v_block, <const floating*>block, block, 1)
        spill(dz + main, block, n - main)


cdef one_body_void bend_blocks(Activation* tag, const floating* v, const floating* tv, floating* dy,
                               floating* tdy, Py_ssize_t blocks) noexcept nogil:
    cdef floating out[LANES]
    cdef floating tout[LANES]
    cdef floating slope
    cdef Py_ssize_t i, j
    for i in range(blocks):
        for j in range(LANES):
            slope = activation_slope(tag, v[j])
            out[j] = dy[j] * slope
            tout[j] = tdy[j] * slope + dy[j] * (activation_bend(tag, v[j]) * tv[j])
        for j in range(LANES):
            dy[j] = out[j]
        for j in range(LANES):
            tdy[j] = tout[j]
        v += LANES
        tv += LANES
        dy += LANES
        tdy += LANES


cdef void bend_loop(Activation* tag, const floating* v, const floating* tv, floating* dy, floating* tdy,
                    Py_ssize_t n) noexcept nogil:
    # dy becomes dz = dy slope(v), tdy its derivative tdy slope(v) + dy bend(v) tv, all (n,)
    cdef floating v_block[LANES]
    cdef floating tv_block[LANES]
    cdef floating block[LANES]
    cdef floating tblock[LANES]
    cdef Py_ssize_t blocks = n // LANES, main = blocks * LANES
    bend_blocks(tag, v, tv, dy, tdy, blocks)
    if main < n:
        fill(v_block, v + main, n - main, <floating>0)
        fill(tv_block, tv + main, n - main, <floating>0)
        fill(block, dy + main, n - main, <floating>0)
        fill(tblock, tdy + main, n - main, <floating>0)
        bend_blocks(tag, <const floating*>v_block, <const floating*>tv_block, block, tblock, 1)
        spill(dy + main, block, n - main)
        spill(tdy + main, tblock, n - main)


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


cdef void activate_tangent_backward(int kind, const floating* v, const floating* tv, floating* dy, floating* tdy,
                                    Py_ssize_t n) noexcept nogil:
    # as bend_loop, in place; every kind but softmax
    if kind == RELU:
        bend_loop(<Relu*>NULL, v, tv, dy, tdy, n)
    elif kind == LEAKY_RELU:
        bend_loop(<LeakyRelu*>NULL, v, tv, dy, tdy, n)
    elif kind == TANH:
        bend_loop(<Tanh*>NULL, v, tv, dy, tdy, n)
    elif kind == SIGMOID:
        bend_loop(<Sigmoid*>NULL, v, tv, dy, tdy, n)
    elif kind == GELU:
        bend_loop(<Gelu*>NULL, v, tv, dy, tdy, n)
    elif kind == SILU:
        bend_loop(<Silu*>NULL, v, tv, dy, tdy, n)


# --- softmax over rows -------------------------------------------------------------

cdef inline floating lane_sum(floating* lane) noexcept nogil:
    # A halving tree over the LANES partial sums, which it overwrites.
    cdef Py_ssize_t j
    for j in range(8):
        lane[j] += lane[j + 8]
    for j in range(4):
        lane[j] += lane[j + 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])


cdef inline floating lane_max(floating* lane) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(8):
        lane[j] = at_least(lane[j], lane[j + 8])
    for j in range(4):
        lane[j] = at_least(lane[j], lane[j + 4])
    return at_least(at_least(lane[0], lane[2]), at_least(lane[1], lane[3]))


cdef floating row_max(const floating* x, Py_ssize_t n) noexcept nogil:
    # Four blocks of lanes side by side: a maximum does not depend on the order. NaN is
    # passed over: exp_sum_row will meet it.
    cdef floating wide[4 * LANES]
    cdef floating lane[LANES]
    cdef floating block[LANES]
    cdef Py_ssize_t j
    for j in range(LANES):
        lane[j] = <floating>-INFINITY
    if n >= 4 * LANES:
        for j in range(4 * LANES):
            wide[j] = <floating>-INFINITY
        while n >= 4 * LANES:
            for j in range(4 * LANES):
                wide[j] = at_least(wide[j], x[j])
            x += 4 * LANES
            n -= 4 * LANES
        for j in range(LANES):
            lane[j] = at_least(at_least(wide[j], wide[j + LANES]),
                               at_least(wide[j + 2 * LANES], wide[j + 3 * LANES]))
    while n >= LANES:
        for j in range(LANES):
            lane[j] = at_least(lane[j], x[j])
        x += LANES
        n -= LANES
    if n > 0:
        fill(block, x, n, <floating>-INFINITY)
        for j in range(LANES):
            lane[j] = at_least(lane[j], block[j])
    return lane_max(lane)


cdef one_body_void exp_sum_blocks(const floating* x, floating shift, floating* e,
                                  floating* lane, Py_ssize_t blocks) noexcept nogil:
    # e = exp(x - shift), x <= shift; lane[j] grows by the elements j, j + LANES, j + 2 LANES, ...
    cdef floating out[LANES]
    cdef floating partial[LANES]
    cdef Py_ssize_t i, j
    for j in range(LANES):
        partial[j] = lane[j]
    for i in range(blocks):
        prefetch(x + blocks * LANES)        # the next row, on its way while this one keeps the core busy
        for j in range(LANES):
            out[j] = exp_below(x[j] - shift)
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
    if blocks > 0:
        exp_sum_blocks(x, shift, e, lane, blocks)
    if main < n:
        fill(block, x + main, n - main, <floating>-INFINITY)  # exp of it adds 0
        exp_sum_blocks(<const floating*>block, shift, block, lane, 1)
        spill(e + main, block, n - main)
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


cdef void softmax_rows_tangent_backward(const floating* y, const floating* ty, floating* dy, floating* tdy,
                                        Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    # all (rows, cols): dy becomes dz = y (dy - s), s = sum(dy y), and tdy its derivative
    # ty (dy - s) + y (tdy - ts), ts = sum(tdy y + dy ty)
    cdef floating mean, tmean, centred
    cdef Py_ssize_t i, j
    for i in range(rows):
        mean, tmean = product_sum(y, dy, cols), product_sum(y, tdy, cols) + product_sum(ty, dy, cols)
        for j in range(cols):
            centred = dy[j] - mean
            dy[j] = y[j] * centred
            tdy[j] = ty[j] * centred + y[j] * (tdy[j] - tmean)
        y += cols
        ty += cols
        dy += cols
        tdy += cols


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


# ---------------------------------------------------------------- entry points

cdef struct ActivationCall:
    int typenum, activation
    Py_ssize_t n, cols          # cols: of a row, for softmax
    void *x
    void *y


cdef void activation_share(ActivationCall* c, floating* dtype, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef floating* x = <floating*>c.x
    cdef floating* y = <floating*>c.y
    cdef Py_ssize_t grain = c.cols if c.activation == SOFTMAX else 64
    cdef Py_ssize_t start = share(c.n, grain, member, team), stop = share(c.n, grain, member + 1, team)
    if start >= stop:
        return
    if c.activation == SOFTMAX:
        softmax_rows(x + start, y + start, (stop - start) // c.cols, c.cols)
    else:
        activate(c.activation, x + start, y + start, stop - start)


cdef void activation_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef ActivationCall* c = <ActivationCall*>args
    if c.typenum == cnp.NPY_FLOAT32:
        activation_share(c, <float*>NULL, member, team)
    else:
        activation_share(c, <double*>NULL, member, team)


cdef object elementwise(team_job job, int activation, int typenum, object x, object out):
    # runs a job over a checked array
    cdef ActivationCall c
    out = as_output("out", out, typenum, x.shape)
    check_apart(("out",), (out,), ("x",), (None if data(out) == data(x) else x,))
    c.typenum, c.activation, c.n, c.cols = typenum, activation, x.size, max(1, x.shape[x.ndim - 1] if x.ndim else 1)
    c.x, c.y = data(x), data(out)
    with nogil:
        team_run(job, &c, team_for(16 * c.n))
    return out


def activation(x, name, out=None):
    """An activation function of every element; softmax runs along the last axis.

    Parameters
    ----------
    x : ndarray, float32 or float64
        At least one dimension.
    name : str
        One of identity, relu, leaky_relu (slope 0.01), tanh, sigmoid, gelu (erf form), silu, softmax.
    out : ndarray, shape of `x`, optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape of `x`

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.activation(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    cdef int typenum = float_type("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one dimension, got none; pass x.reshape(1)")
    return elementwise(activation_job, activation_code(name), typenum, as_input("x", x, typenum, x.shape), out)


cdef void exp_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    cdef ActivationCall* c = <ActivationCall*>args
    cdef Py_ssize_t start = share(c.n, 64, member, team), stop = share(c.n, 64, member + 1, team)
    if c.typenum == cnp.NPY_FLOAT32:
        value_loop(<Exp*>NULL, <float*>c.x + start, <float*>c.y + start, stop - start)
    else:
        value_loop(<Exp*>NULL, <double*>c.x + start, <double*>c.y + start, stop - start)


def exp(x, out=None):
    """The exponential of every element, to 2 ULP.

    Parameters
    ----------
    x : ndarray, float32 or float64
    out : ndarray, shape of `x`, optional
        Overwritten with the result; may be `x` itself.

    Returns
    -------
    ndarray, shape of `x`

    Raises
    ------
    TypeError, ValueError
        Wrong dtype, shape, layout or overlap; nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> fo.functional.exp(np.array([0.0, -np.inf]))
    array([1., 0.])
    """
    cdef int typenum = float_type("x", x)
    return elementwise(exp_job, IDENTITY, typenum, as_input("x", x, typenum, x.shape), out)
