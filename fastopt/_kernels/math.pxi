# Functions of one element: exp, logarithm, tanh, logistic function and normal distribution, with derivatives of
# the activations made of them.
#
# - Each formula is written once, without branches on data, and left to the compiler's vectorizer; float and
#   double share the text, only coefficients differ.
# - exp, tanh and sigmoid stay within 2 ULP, silu within 4, gelu within 5.1, without FMA too: exp comes in two factors
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
    double square_plus "fastopt_square_plus"(double a, double b)
    # Polynomials by Horner's rule; coefficients.h tells of what.
    double exp_polynomial "fastopt_exp_polynomial"(double r)
    double gauss_polynomial "fastopt_gauss_polynomial"(double r)
    double atanh_polynomial "fastopt_atanh_polynomial"(double z)
    double tanh_polynomial "fastopt_tanh_polynomial"(double z)
    double mills_polynomial "fastopt_mills_polynomial"(double v)
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


cdef inline floating exponent_magic(floating shift) noexcept nogil:
    # Added to x, 1.5 * 2^23 (1.5 * 2^52) rounds it to an integer k; with the bias of
    # the exponent and shift, an integer, power_from_low_bits finds 2^(k + shift).
    return (<floating>12583039 if floating is float else <floating>6755399441056767) + shift


cdef inline floating exp_reduced(floating x, floating shift, floating* power) noexcept nogil:
    # exp(x) 2^shift = power (1 + y), power = 2^(n + shift), |y| < 0.42. Returns y, which
    # callers add where it is rounded least; they choose shift so that power is a normal
    # number and undo it last, so that a denormal result is rounded once.
    # ln2_high has 16 bits (42): n * ln2_high is exact.
    cdef floating ln2_high = <floating>0.693145751953125 if floating is float else <floating>0.6931471805598903
    cdef floating ln2_low = <floating>1.4286068203094173e-06 if floating is float else <floating>5.497923018708371e-14
    cdef floating magic = exponent_magic(shift), n, r, p
    n = x * <floating>1.4426950408889634 + magic
    power[0] = power_from_low_bits(n)
    n = n - magic
    r = x - n * ln2_high - n * ln2_low
    p = exp_polynomial(r)
    return r + r * r * p


cdef inline floating exp_element(floating x) noexcept nogil:
    # |x| is cut where power is 2^127 (2^1023) and the result inf, or where n + shift
    # is one below the normal numbers and power 0: exp(-inf) takes no slow denormals.
    cdef floating a = absolute(x), shift = <floating>-64 if floating is float else <floating>-512, y, power = 0, back
    a = clamp_max(a, <floating>132.4 if floating is float else <floating>1064)
    a = copy_sign(a, x)
    shift = copy_sign(shift, x)
    y = exp_reduced(a, -shift, &power)
    back = power_from_low_bits(exponent_magic(shift))
    return (<floating>1 + y) * power * back


cdef inline floating exp_below(floating x) noexcept nogil:
    # exp of x <= 0, where results below the normal numbers may be 0: a softmax adds 1 to them.
    cdef floating y, power = 0
    x = clamp_min(x, <floating>-88 if floating is float else <floating>-709)
    y = exp_reduced(x, <floating>0, &power)
    return power + power * y


# ---------------------------------------------------------------- logarithm

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
    cdef floating over = u - far, under = u + (<floating>2 + far), one_more = <floating>1 + u, s, z, p
    cdef floating inverse = <floating>1 / (one_more * under)
    tail[0] = u * under * inverse
    s = over * one_more * inverse
    z = s * s
    p = atanh_polynomial(z)
    s = <floating>2 * s
    return far * <floating>0.6931471805599453 + (s + s * (z * p))


# ---------------------------------------------------------------- tanh and logistic function

cdef inline floating tanh_element(floating x) noexcept nogil:
    # 1 - 2 / (exp(2a) + 1), a = |x|, loses digits near 0: there the polynomial.
    cdef floating a = absolute(x), small, large, y, z, p, power = 0
    y = exp_reduced(<floating>2 * clamp_max(a, <floating>20), <floating>0, &power)
    large = <floating>1 - <floating>2 / (power + (power * y + <floating>1))
    z = a * a
    p = tanh_polynomial(z)
    small = a + a * (z * p)
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
    return clamp_max(a, <floating>132.7 if floating is float else <floating>1064.3)


cdef inline floating logistic_tail(floating numerator, floating a) noexcept nogil:
    # numerator / (1 + exp(a)), fraction reduced by 2^64 (2^512) = 1 / one. The smaller
    # two of one + power + power y are added first: 1 + y is never rounded.
    cdef floating shift = <floating>-64 if floating is float else <floating>-512, y, power = 0
    cdef floating one = <floating>5.421010862427522e-20 if floating is float else <floating>7.458340731200207e-155
    y = exp_reduced(a, shift, &power)
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
    return clamp_max(a, <floating>16.272 if floating is float else <floating>46.13)


cdef inline floating times_gauss(floating factor, floating a) noexcept nogil:
    # factor exp(-a^2/2), as exp_reduced, but a^2 is never rounded: exp(-a^2/2) 2^shift = power exp(-r/2), r = a^2 + n 2 ln(2)
    cdef floating shift = <floating>64 if floating is float else <floating>512, n, r, y
    cdef floating small = <floating>5.421010862427522e-20 if floating is float else <floating>7.458340731200207e-155
    cdef floating two_ln2_high = <floating>1.38629150390625 if floating is float else <floating>1.3862943611197806
    cdef floating two_ln2_low = <floating>2.8572136406188346e-06 if floating is float else <floating>1.0995846037416742e-13
    cdef floating magic = exponent_magic(shift)
    n = a * a * <floating>-0.7213475204444817 + magic
    factor = factor * power_from_low_bits(n)
    n = n - magic
    r = square_plus(a, n * two_ln2_high)
    r = r + n * two_ln2_low
    y = gauss_polynomial(r)
    return (factor + factor * (r * y)) * small


# Phi(-a) exp(a^2/2) = p(v) / (a + k), v = a / (a + k), as Shepherd & Laframboise (1981)
# do for erfc. k and the center of the polynomial were chosen for the least rounding.

cdef inline floating mills_denominator(floating a) noexcept nogil:
    return a + (<floating>3.75 if floating is float else <floating>3)


cdef inline floating gelu_element(floating x) noexcept nogil:
    # a Phi(-a) = v p(v) exp(-a^2/2)
    cdef floating a = gauss_argument(x), v, p
    v = a / mills_denominator(a)
    p = mills_polynomial(v)
    return relu_element(x) - times_gauss(v * p, a)


cdef inline floating gelu_derivative(floating z) noexcept nogil:
    # c = Phi(-a) - a phi(a), phi(a) = exp(-a^2/2) / sqrt(2 pi)
    cdef floating a = gauss_argument(z), inverse, c
    inverse = <floating>1 / mills_denominator(a)
    c = mills_polynomial(a * inverse)
    c = inverse * c - a * <floating>0.3989422804014327
    c = times_gauss(c, a)
    return c if z < <floating>0 else <floating>1 - c


cdef inline floating gelu_second_derivative(floating z) noexcept nogil:
    # the second derivative, (2 - a^2) phi(a)
    cdef floating a = gauss_argument(z)
    return times_gauss((<floating>2 - a * a) * <floating>0.3989422804014327, a)
