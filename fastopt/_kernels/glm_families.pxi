# Families of generalized linear models: the loss of a linear predictor and its derivatives.
#
# - A family is a formula on one element, glm_element; the softmax takes LANES rows at once, softmax_block.
# - Terms of the log-likelihood that do not depend on the predictor are left out.
# - A loss is finite in its whole domain, and its derivatives keep their digits at its ends; beyond it, it is infinite.

cdef enum:
    GAUSSIAN                # loss (z - y)^2 / 2
    BINOMIAL                # log(1 + e^z) - y z, y 0 or 1
    POISSON                 # e^z - y z
    MULTINOMIAL             # log sum e^z - z_y, y a class
    GAMMA                   # y e^-z + z
    GAMMA_INVERSE           # y z - log z, by the inverse link; infinite beyond z > 0
    TWEEDIE                 # y e^((1 - p) z) / (p - 1) + e^((2 - p) z) / (2 - p), 1 < p < 2
    NEGATIVE_BINOMIAL       # (y + s) log(1 + e^z / s) - y z, s = 1 / alpha

FAMILIES = ("gaussian", "binomial", "poisson", "multinomial", "gamma", "gamma_inverse", "tweedie", "negative_binomial")


ctypedef struct GaussianFamily:
    char _
ctypedef struct BinomialFamily:
    char _
ctypedef struct PoissonFamily:
    char _
ctypedef struct GammaFamily:
    char _
ctypedef struct GammaInverseFamily:
    char _
ctypedef struct TweedieFamily:
    char _
ctypedef struct NegativeBinomialFamily:
    char _

ctypedef fused Family:
    GaussianFamily
    BinomialFamily
    PoissonFamily
    GammaFamily
    GammaInverseFamily
    TweedieFamily
    NegativeBinomialFamily


cdef inline double glm_element(Family* tag, double z, double y, double parameter, double shift, double* derivative,
                               double* curvature) noexcept nogil:
    # the loss of the linear predictor z with target y, its first and second derivative by z; parameter and shift: those
    # of GlmPlan
    cdef double value, a, t, q = 0
    if Family is GaussianFamily:
        derivative[0] = z - y
        curvature[0] = 1.0
        return 0.5 * derivative[0] * derivative[0]
    elif Family is BinomialFamily:
        value = element_loss[LogisticError, double](<LogisticError*>NULL, z, y, 0.0, &q)
        derivative[0] = q
        q = absolute(q)
        curvature[0] = q * (1.0 - q)
        return value
    elif Family is PoissonFamily:
        q = exp_element(z)
        derivative[0] = q - y
        curvature[0] = q
        return q - y * z
    elif Family is GammaFamily:
        q = y * exp_element(-z)
        derivative[0] = 1.0 - q
        curvature[0] = q
        return q + z
    elif Family is GammaInverseFamily:
        a = clamp_min(z, DBL_MIN)
        q = 1.0 / a
        derivative[0] = y - q
        curvature[0] = q * q
        value = y * z - log_element(a)
        return INFINITY if z < DBL_MIN else value
    elif Family is TweedieFamily:
        a = exp_element((1.0 - parameter) * z)
        a = y * a if y != 0.0 else 0.0      # 0 times infinity would be NaN
        q = exp_element((2.0 - parameter) * z)
        derivative[0] = q - a
        curvature[0] = (parameter - 1.0) * a + (2.0 - parameter) * q
        return a / (parameter - 1.0) + q / (2.0 - parameter)
    else:                                   # log(1 + e^t) = log(1 + e^-|t|) + max(t, 0), t = z - log s
        t = z - shift
        a = absolute(t)
        value = (y + parameter) * softplus_of(exp_below(-a), &q)
        a = (y + parameter) * q             # q = e^-|t| / (1 + e^-|t|)
        derivative[0] = parameter - a if t > 0.0 else a - y
        curvature[0] = a * (1.0 - q)
        return value + (parameter * t - y * shift if t > 0.0 else -y * z)   # y t, which cancels, is left out


cdef noinline_void family_block(Family* tag, const double* z, const double* y, const double* w, double parameter,
                                double shift, double* r, double* c, double* lane) noexcept nogil:
    # z, y, w (LANES,) -> r = w l', c = w l''; lane grows by w l
    cdef double losses[LANES]
    cdef double derivative_of[LANES]
    cdef double curvature_of[LANES]
    cdef double derivative = 0, curvature = 0
    cdef Py_ssize_t j
    for j in range(LANES):
        losses[j] = w[j] * glm_element(tag, z[j], y[j], parameter, shift, &derivative, &curvature)
        derivative_of[j] = w[j] * derivative
        curvature_of[j] = w[j] * curvature
    for j in range(LANES):
        lane[j] += losses[j]
        r[j] = derivative_of[j]
        c[j] = curvature_of[j]


cdef noinline_void softmax_block(double* z, const double* y, const double* w, double* r, double* p, double* lane,
                                 Py_ssize_t k) noexcept nogil:
    # z (k, LANES), y (LANES,) classes -> p = softmax(z), r = w (p - [y]); lane grows by w (log sum e^z - z_y)
    cdef double top[LANES]
    cdef double total[LANES]
    cdef double own[LANES]
    cdef Py_ssize_t a, j
    for j in range(LANES):
        own[j] = z[<Py_ssize_t>y[j] * LANES + j]
    exp_columns(z, top, total, k)
    for j in range(LANES):
        lane[j] += w[j] * (log_element(total[j]) + (top[j] - own[j]))
        total[j] = 1.0 / total[j]
    for a in range(k):
        for j in range(LANES):
            p[a * LANES + j] = z[a * LANES + j] * total[j]
        for j in range(LANES):
            r[a * LANES + j] = w[j] * p[a * LANES + j]
    for j in range(LANES):
        r[<Py_ssize_t>y[j] * LANES + j] -= w[j]


cdef noinline_void product_block(const double* z, const double* c, const double* w, double* r, Py_ssize_t k) noexcept nogil:
    # z = X v (k, LANES) -> r = D z: c z, or of the softmax w p (z - sum p z)
    cdef double mean[LANES]
    cdef Py_ssize_t a, j
    if k == 1:
        for j in range(LANES):
            r[j] = c[j] * z[j]
        return
    for j in range(LANES):
        mean[j] = 0
    for a in range(k):
        for j in range(LANES):
            mean[j] += c[a * LANES + j] * z[a * LANES + j]
    for a in range(k):
        for j in range(LANES):
            r[a * LANES + j] = w[j] * c[a * LANES + j] * (z[a * LANES + j] - mean[j])


cdef noinline_void pair_block(const double* p, const double* w, double* out, Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    # out (LANES,) = the second derivative of w l by z_a and z_b, of the softmax p (k, LANES)
    cdef Py_ssize_t j
    cdef double same = 1.0 if a == b else 0.0
    for j in range(LANES):
        out[j] = w[j] * p[a * LANES + j] * (same - p[b * LANES + j])
