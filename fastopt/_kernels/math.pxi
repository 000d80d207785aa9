# Functions of one element: exp, logarithm, tanh, logistic function and normal distribution, with derivatives of
# the activations made of them.
#
# - Each formula is written once, without branches on data, and left to the compiler's vectorizer; float and
#   double share the text, only coefficients differ.
# - exp, tanh and sigmoid stay within 2 ULP, gelu and silu within 4, without FMA too: exp comes in two factors
#   and gelu's tail is relative to exp(-a^2/2), so nothing cancels and a denormal result is rounded once.
# - Literals in mixed expressions carry a <floating> cast: bare ones are doubles.

from libc.math cimport INFINITY

cdef extern from "simd.h" nogil:
    # Macros over both types (C11 _Generic), declared for double: their result goes to a typed local.
    double absolute "fastopt_abs"(double x)
    double root "fastopt_sqrt"(double x)
    double quotient "fastopt_quotient"(double a, double b, double most)
    double quotient_most "fastopt_max_divisor"(double x)      # what quotient takes for `max_divisor`
    double copy_sign "fastopt_copysign"(double x, double sign)
    double minus_half_square "fastopt_minus_half_square"(double a, void* rest)
    double power_from_low_bits "fastopt_power_from_low_bits"(double x)
    # The first n < LANES elements of x into a block whose others are padding, and back.
    void load_padded "fastopt_load_padded"(void* block, const void* x, Py_ssize_t n, double padding)
    void store_partial "fastopt_store_padded"(void* x, const void* block, Py_ssize_t n)
    ctypedef void noinline_void "FASTOPT_NOINLINE void"
    double log_parts "fastopt_log_parts"(double x, double* m)
    void prefetch "__builtin_prefetch"(const void* p)

cdef enum:
    LANES = 16


# ---------------------------------------------------------------- exponential

cdef inline floating clamp_max(floating x, floating limit) noexcept nogil:
    # min(x, limit); NaN passes through.
    return limit if x > limit else x


cdef inline floating clamp_min(floating x, floating limit) noexcept nogil:
    # max(x, limit); NaN passes through, a NaN limit is passed over.
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
    # exp(x + low) 2^shift = power (1 + y), power = 2^(n + shift), |y| < 0.42. Returns
    # y, which callers add where it is rounded least; they choose shift so that power
    # is a normal number and undo it last, so that a denormal result is rounded once.
    # low is small, or -0.0, whose addition compiles away.
    cdef floating magic = exponent_magic(shift), ln2_high, ln2_low, n, r
    if floating is float:
        ln2_high = 0.693145751953125  # 16 bits: n * ln2_high is exact
        ln2_low = 1.4286068203094173e-06
    else:
        ln2_high = 0.6931471805598903  # 42 bits
        ln2_low = 5.497923018708371e-14
    n = (x + rest) * <floating>1.4426950408889634 + magic
    power[0] = power_from_low_bits(n)
    n = n - magic
    r = x - n * ln2_high + rest - n * ln2_low
    return r + r * r * exp_polynomial(r)


cdef inline floating exp_element(floating x) noexcept nogil:
    # |x| is cut where power is 2^127 (2^1023) and the result inf, or where n + shift
    # is one below the normal numbers and power 0: exp(-inf) takes no slow denormals.
    cdef floating a = absolute(x), shift, y, power = 0, back
    if floating is float:
        a, shift = clamp_max(a, <floating>132.4), -64.0
    else:
        a, shift = clamp_max(a, 1064.0), -512.0
    a = copy_sign(a, x)
    shift = copy_sign(shift, x)
    y = exp_reduced(a, <floating>-0.0, -shift, &power)
    back = power_from_low_bits(exponent_magic(shift))
    return (<floating>1 + y) * power * back


cdef inline floating exp_below(floating x) noexcept nogil:
    # exp of x <= 0, where results below the normal numbers may be 0: a softmax adds 1 to them.
    cdef floating y, power = 0
    if floating is float:
        y = exp_reduced(clamp_min(x, <floating>-88), <floating>-0.0, <floating>0, &power)
    else:
        y = exp_reduced(clamp_min(x, -709.0), <floating>-0.0, <floating>0, &power)
    return power + power * y


# ---------------------------------------------------------------- logarithm

cdef inline floating atanh_polynomial(floating z) noexcept nogil:
    # (atanh(s) / s - 1) / z with z = s^2, |s| <= 0.1717. Chebyshev in 50 digits, then
    # rounded: atanh is off by at most 1.7e-11 (float), 3.2e-20 (double), relative.
    cdef floating p
    if floating is float:
        p = <floating>0.116668462
        p = p * z + <floating>0.142753511
        p = p * z + <floating>0.200000614
        p = p * z + <floating>0.333333333
    else:
        p = 0.065452932467618061
        p = p * z + 0.066341969565496914
        p = p * z + 0.076931269415028952
        p = p * z + 0.090908976895309732
        p = p * z + 0.11111111197080276
        p = p * z + 0.14285714285396403
        p = p * z + 0.20000000000000448
        p = p * z + 0.33333333333333331
    return p


cdef inline double log_element(double x) noexcept nogil:
    # log(x), x >= 1, to 2 ULP or 1e-16: k log 2 + 2 atanh((m - 1) / (m + 1)), x = m 2^k
    cdef double m = 0, k = log_parts(x, &m), s, z
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    return k * 0.6931471805599453 + (2.0 * s + 2.0 * s * (z * atanh_polynomial(z))) + (x - x)


cdef inline floating softplus_of(floating u, floating* tail) noexcept nogil:
    # log(1 + u) for 0 <= u <= 1, and tail = u / (1 + u), with one division between them:
    # 2 atanh(u / (2 + u)), from u = sqrt(2) - 1 on log(2) + 2 atanh((u - 1) / (u + 3))
    cdef floating far = <floating>1 if u > <floating>0.41421356 else <floating>0
    cdef floating over = u - far, under = u + (<floating>2 + far), one_more = <floating>1 + u, s, z
    cdef floating inverse = <floating>1 / (one_more * under)
    tail[0] = u * under * inverse
    s = over * one_more * inverse
    z = s * s
    s = <floating>2 * s
    return far * <floating>0.6931471805599453 + (s + s * (z * atanh_polynomial(z)))


# ---------------------------------------------------------------- tanh and logistic function

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
    y = exp_reduced(<floating>2 * clamp_max(a, <floating>20), <floating>-0.0, <floating>0,
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
# is relu(x) - a F(-a) with a = |x|, and its derivative is c left of 0 and 1 - c right of it,
# c being the derivative at -a. Only the small tail is ever computed.

cdef inline floating logistic_argument(floating x) noexcept nogil:
    # |x|, cut where power in logistic_tail is 2^127 (2^1023) and the tail long 0.
    cdef floating a = absolute(x)
    if floating is float:
        return clamp_max(a, <floating>132.7)
    else:
        return clamp_max(a, 1064.3)


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


cdef inline floating silu_derivative(floating z) noexcept nogil:
    # c = q (1 - a (1 - q)), q = sigmoid(-a)
    cdef floating a = logistic_argument(z), q, c
    q = logistic_tail(<floating>1, a)
    c = q * (<floating>1 - a * (<floating>1 - q))
    return c if z < <floating>0 else <floating>1 - c


cdef inline floating silu_second_derivative(floating z) noexcept nogil:
    # the second derivative, q (1 - q) (2 - a (1 - 2 q)); the same at z and -z
    cdef floating a = logistic_argument(z), q
    q = logistic_tail(<floating>1, a)
    return q * (<floating>1 - q) * (<floating>2 - a * (<floating>1 - <floating>2 * q))


# ---------------------------------------------------------------- normal distribution

cdef inline floating gauss_argument(floating x) noexcept nogil:
    # |x|, cut where power in times_gauss is 0.
    cdef floating a = absolute(x)
    if floating is float:
        return clamp_max(a, <floating>16.272)
    else:
        return clamp_max(a, 46.13)


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
# do for erfc. k and the center of the polynomial were chosen for the least rounding.

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


cdef inline floating gelu_derivative(floating z) noexcept nogil:
    # c = Phi(-a) - a phi(a), phi(a) = exp(-a^2/2) / sqrt(2 pi)
    cdef floating a = gauss_argument(z), inverse, c
    inverse = <floating>1 / mills_denominator(a)
    c = inverse * mills_polynomial(a * inverse) - a * <floating>0.3989422804014327
    c = times_gauss(c, a)
    return c if z < <floating>0 else <floating>1 - c


cdef inline floating gelu_second_derivative(floating z) noexcept nogil:
    # the second derivative, (2 - a^2) phi(a)
    cdef floating a = gauss_argument(z)
    return times_gauss((<floating>2 - a * a) * <floating>0.3989422804014327, a)
