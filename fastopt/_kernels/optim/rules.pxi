# Optimizer rules: the arithmetic of each on one element, and the loop that walks memory for all.
#
# - A rule is two things: its constants for one step of one tensor (prepare, in float64), and the formula they enter
#   (update_element). Several rules share a formula: Adam, AdamW, RAdam and NAdam differ in constants only, as do
#   Adagrad and RMSprop.
# - The formula is a tag type, so each gets its own vectorized copy of the loop (update_loop). Every array is read
#   once and written once.
# - Blocks of 16 elements pass through local arrays, whole or padded: an element has the same bits wherever it stands.
# - quotient divides by a root with products, and subnormal numbers are flushed while a loop runs: moments of a dead
#   unit decay into them, and would make every later step several times slower. Both are right to rounding while eps
#   keeps the divisor away from 0. With a smaller or a huge eps, and where RAdam does not divide, a step is `exact`:
#   IEEE division, nothing flushed.

ctypedef struct Fast:           # how a formula divides
    char unused
ctypedef struct Exact:
    char unused
ctypedef fused Division:
    Fast
    Exact

ctypedef struct Plain:
    char unused
ctypedef struct Momentum:
    char unused
ctypedef struct Nesterov:
    char unused
ctypedef struct Scaled:
    char unused
ctypedef struct ScaledCentered:
    char unused
ctypedef struct ScaledMomentum:
    char unused
ctypedef struct ScaledCenteredMomentum:
    char unused
ctypedef struct Adadelta:
    char unused
ctypedef struct PlainAdam:      # Adam whose shrink is 1 and inside 0, the same bits
    char unused
ctypedef struct Adam:
    char unused
ctypedef struct Nadam:
    char unused
ctypedef struct Amsgrad:
    char unused
ctypedef struct Adamax:
    char unused
ctypedef struct Lion:
    char unused
ctypedef fused Formula:
    Plain
    Momentum
    Nesterov
    Scaled
    ScaledCentered
    ScaledMomentum
    ScaledCenteredMomentum
    Adadelta
    PlainAdam
    Adam
    Nadam
    Amsgrad
    Adamax
    Lion

cdef enum:
    PLAIN, MOMENTUM, NESTEROV, SCALED, SCALED_CENTERED, SCALED_MOMENTUM, SCALED_CENTERED_MOMENTUM, ADADELTA, ADAM, NADAM,
    AMSGRAD, ADAMAX, LION
FORMULAS = ("plain", "momentum", "nesterov", "scaled", "scaled_centered", "scaled_momentum", "scaled_centered_momentum",
            "adadelta", "adam", "nadam", "amsgrad", "adamax", "lion")

cdef enum:
    RULE_SGD, RULE_ADAGRAD, RULE_RMSPROP, RULE_ADADELTA, RULE_ADAM, RULE_RADAM, RULE_NADAM, RULE_ADAMAX, RULE_LION
RULES = ("sgd", "adagrad", "rmsprop", "adadelta", "adam", "radam", "nadam", "adamax", "lion")

# A group's options as the kernels take them: one row of numbers, so that a schedule can write any of them.
cdef enum:
    LR, WEIGHT_DECAY, MU, DAMPENING, BETA1, BETA2, EPS, LR_DECAY, MOMENTUM_DECAY, THRESHOLD, N_NUMBERS
NUMBERS = ("lr", "weight_decay", "momentum", "dampening", "beta1", "beta2", "eps", "lr_decay", "momentum_decay", "rectify_threshold")

assert (len(FORMULAS), len(RULES), len(NUMBERS)) == (LION + 1, RULE_LION + 1, N_NUMBERS)

cdef struct Options:
    int rule, formula
    double number[N_NUMBERS]
    bint interim, lr_in_velocity, maximize, eps_inside_sqrt, decoupled_weight_decay

cdef struct Step:           # constants of one step of one tensor, as update_element names them
    double sign, decay, shrink, gain, lr, a, b, c, d, e, f, inside, outside
    bint exact

cdef enum:
    MAX_STATES = 3

cdef struct Tensor:
    int typenum
    Py_ssize_t size, group
    int64_t count               # steps taken
    bint started                # the velocity has had its first step
    double product              # NAdam: the product of the momenta so far
    Step step
    void *param
    void *grad                  # NULL: skipped
    void *disjoint              # the gradient last found to share no memory with a parameter
    void *source                # the gradient that the update reads: `grad`, `sum`, or NULL for no update
    void *state[MAX_STATES]
    void *ema                   # NULL: no average
    void *sum                   # of the gradients since the last update; NULL without accumulation
    void *home                  # where the parameter stood before the interim point
    bint summed                 # `sum` holds a gradient
    bint frozen                 # a training leaves it where it is: no interim point either


# ---------------------------------------------------------------- constants of a step

cdef void prepare(Options* o, Tensor* t) noexcept nogil:
    # counts the step and sets its constants
    cdef const double* number = o.number
    cdef Step* s = &t.step
    cdef double lr = number[LR]
    t.count += 1
    s.sign, s.gain = -1 if o.maximize else 1, 1
    s.decay = 0 if o.decoupled_weight_decay else number[WEIGHT_DECAY]
    s.shrink = 1 - lr * number[WEIGHT_DECAY] if o.decoupled_weight_decay else 1
    s.lr, s.inside, s.outside = lr, number[EPS] if o.eps_inside_sqrt else 0, 0 if o.eps_inside_sqrt else number[EPS]
    s.exact = o.rule != RULE_SGD and o.rule != RULE_LION and not MIN_EPS <= number[EPS] <= MAX_EPS
    if o.rule == RULE_SGD:
        prepare_sgd(o, t, s)
    elif o.rule == RULE_ADAGRAD:
        s.a = s.b = 1
        s.lr = lr / (1 + (t.count - 1) * number[LR_DECAY])
    elif o.rule == RULE_RMSPROP:
        s.a, s.b = number[BETA2], 1 - number[BETA2]
        s.c, s.d = number[MU], 1
        if o.interim:           # the velocity holds the step
            s.d, s.lr = -lr, -1
    elif o.rule == RULE_ADADELTA:
        s.a, s.b = number[BETA2], 1 - number[BETA2]
    else:                       # two decaying averages
        s.a, s.b = number[BETA1], 1 - number[BETA1]
        s.c, s.d = number[BETA2], 1 - number[BETA2]
        if o.rule != RULE_LION:
            prepare_adam(o, t, s, 1 - pow(number[BETA1], <double>t.count), 1 - pow(number[BETA2], <double>t.count))


cdef void prepare_sgd(Options* o, Tensor* t, Step* s) noexcept nogil:
    # m = a m + b g; theta - lr m, or lr (c g + d m) with Nesterov's c = 1
    s.a = o.number[MU]
    s.b = 1 - o.number[DAMPENING] if t.started else 1       # the first step is not dampened
    s.c, s.d = 1, s.a
    if o.formula == PLAIN:
        return
    t.started = True
    if o.lr_in_velocity or o.interim:                       # v = mu v - lr g; theta + v
        s.b, s.c, s.lr = -s.lr * s.b, -s.lr * s.c, -1


cdef void prepare_adam(Options* o, Tensor* t, Step* s, double correction1, double correction2) noexcept nogil:
    # theta - lr m / (sqrt(v + inside) + outside), or theta - (f g + lr m) / ...; e = 0: not divided. m / correction1 and
    # v / correction2 are unbiased: the root of correction2 passes from v to all beside it. Adam's g has the gain
    # sqrt(1 - beta2), so that v takes in g g and nothing more
    cdef const double* number = o.number
    cdef double lr = number[LR], rho, limit, mu, mu_next, unbiased = sqrt(correction2)
    s.lr = lr / correction1
    if o.rule == RULE_ADAMAX:
        return
    s.gain, s.e = sqrt(s.d), 1
    s.b /= s.gain
    s.inside *= correction2
    if o.rule == RULE_RADAM:
        limit = 2 / (1 - number[BETA2]) - 1
        rho = limit - 2 * t.count * (1 - correction2) / correction2
        if rho > number[THRESHOLD]:
            s.lr *= sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) * unbiased
        else:                   # the variance of v is not known yet
            s.e, s.exact = 0, True
        return
    if s.outside > 0:           # a positive eps stays positive
        s.outside = max(s.outside * unbiased, <double>FLT_MIN * 2.0**-23 if t.typenum == cnp.NPY_FLOAT32 else DBL_MIN * 2.0**-52)
    if o.rule == RULE_NADAM:
        mu = number[BETA1] * (1 - 0.5 * pow(0.96, t.count * number[MOMENTUM_DECAY]))
        mu_next = number[BETA1] * (1 - 0.5 * pow(0.96, (t.count + 1) * number[MOMENTUM_DECAY]))
        t.product *= mu
        s.f = lr * (1 - mu) / (1 - t.product) / s.gain * unbiased
        s.lr = lr * mu_next / (1 - t.product * mu_next)
    s.lr *= unbiased


# ---------------------------------------------------------------- formulas

cdef inline floating divided(Division* division, floating a, floating b, floating max_divisor) noexcept nogil:
    if Division is Exact:
        return a / b
    else:
        return quotient(a, b, max_divisor)


cdef inline void update_element(Formula* formula, Division* division, const floating* constants, floating g, floating* param,
                                floating* s0, floating* s1, floating* s2) noexcept nogil:
    # One element: its parameter theta, its gradient g times Step.gain, its states; constants in update_loop's order.
    cdef floating shrink = constants[0], lr = constants[1], a = constants[2], b = constants[3], c = constants[4]
    cdef floating d = constants[5], e = constants[6], f = constants[7], inside = constants[8], outside = constants[9]
    cdef floating max_divisor = constants[10], zero = 0, p = param[0], m, v, q, top
    if Formula is Plain:                    # theta - lr g
        param[0] = p - lr * g
    elif Formula is Momentum or Formula is Nesterov:    # theta - lr m
        m = a * s0[0] + b * g
        s0[0] = m
        if Formula is Nesterov:             # theta - lr (c g + d m)
            m = c * g + d * m
        param[0] = p - lr * m
    elif Formula is PlainAdam or Formula is Adam or Formula is Nadam or Formula is Amsgrad:
        m = a * s0[0] + b * g               # shrink theta - lr m / (sqrt(v + inside) + outside)
        v = c * s1[0] + g * g
        s0[0] = m
        s1[0] = v
        if Formula is Amsgrad:              # the running maximum of v stands for v
            top = s2[0]
            v = top if top > v else v
            s2[0] = v
        if Formula is Nadam:
            m = lr * m + f * g
        if Formula is not PlainAdam:
            v = v + inside
        q = root(v)
        q = q + outside
        if Division is Exact:               # e = 0: not divided, and v may be infinite
            q = q if e != zero else <floating>1
        m = divided(division, m, q, max_divisor)
        if Formula is PlainAdam:
            param[0] = p - lr * m
        elif Formula is Nadam:
            param[0] = shrink * p - m
        else:
            param[0] = shrink * p - lr * m
    elif Formula is Adamax:                 # theta - lr m / u
        m = a * s0[0] + b * g
        v = c * s1[0]
        q = absolute(g)
        q = q + outside
        v = q if v <= q else v              # the larger; NaN in either stays
        v = v if q == q else q
        s0[0] = m
        s1[0] = v
        param[0] = p - lr * m / v
    elif Formula is Lion:                   # theta - lr sign(beta1 m + (1 - beta1) g)
        m = s0[0]
        q = a * m + b * g
        s0[0] = c * m + d * g
        q = lr if q > zero else (-lr if q < zero else q)
        param[0] = shrink * p - q
    elif Formula is Adadelta:               # theta - lr sqrt(D) / sqrt(E) g, eps with both roots
        v = a * s0[0] + b * g * g
        q = s1[0]
        m = root(q + inside)
        m = m + outside
        top = root(v + inside)
        top = top + outside
        top = divided(division, m, top, max_divisor)
        top = top * g
        s0[0] = v
        s1[0] = a * q + b * top * top
        param[0] = p - lr * top
    else:                                   # the gradient over the root of its mean square
        v = a * s0[0] + b * g * g
        s0[0] = v
        if Formula is ScaledCentered or Formula is ScaledCenteredMomentum:
            m = a * s1[0] + b * g
            s1[0] = m
            q = v - m * m
            v = q if q == q else v          # infinity less infinity is NaN: v stays
            v = zero if v < zero else v     # rounding can leave a little less than 0
        q = root(v + inside)
        q = q + outside
        q = divided(division, g, q, max_divisor)
        if Formula is ScaledMomentum or Formula is ScaledCenteredMomentum:
            q = c * s2[0] + d * q
            s2[0] = q
        param[0] = p - lr * q


# ---------------------------------------------------------------- the loop

cdef extern from "simd.h" nogil:
    void load "fastopt_load_block"(void* to, const void* source, Py_ssize_t prefetch_distance)
    void store "fastopt_store_block"(void* to, const void* source)
    # n <= BLOCK elements; pad: zeros follow, up to BLOCK
    void copy_partial "fastopt_copy_partial"(void* to, const void* source, Py_ssize_t n, bint pad)


cdef noinline_void update_loop(Formula* formula, Division* division, const Step* step, double scale, floating max_divisor,
                               floating** array, Py_ssize_t n) noexcept nogil:
    # n elements, whole blocks, of array: parameter, gradient, states. The gradient counts `scale` times; max_divisor: for quotient
    cdef floating factor = <floating>(scale * step.gain)
    cdef floating constants[11]
    cdef floating* param = array[0]
    cdef const floating* grad = array[1]
    cdef floating* s0 = array[2]
    cdef floating* s1 = array[3]
    cdef floating* s2 = array[4]
    cdef floating P[BLOCK]
    cdef floating G[BLOCK]
    cdef floating S0[BLOCK]
    cdef floating S1[BLOCK]
    cdef floating S2[BLOCK]
    cdef bint has0 = True, has1 = False, has2 = False
    cdef Py_ssize_t i, j, prefetch_distance = tuning.update_prefetch
    if Formula is Plain:
        has0 = False
    elif (Formula is ScaledCentered or Formula is Adadelta or Formula is PlainAdam or Formula is Adam or Formula is Nadam
          or Formula is Adamax):
        has1 = True
    elif Formula is ScaledMomentum:
        has2 = True
    elif Formula is ScaledCenteredMomentum or Formula is Amsgrad:
        has1 = has2 = True
    constants[0], constants[1], constants[2] = <floating>step.shrink, <floating>step.lr, <floating>step.a
    constants[3], constants[4], constants[5] = <floating>step.b, <floating>step.c, <floating>step.d
    constants[6], constants[7], constants[8] = <floating>step.e, <floating>step.f, <floating>step.inside
    constants[9], constants[10] = <floating>step.outside, max_divisor
    for j in range(0, n, 16):   # BLOCK, as a literal: Cython makes a C loop of it
        load(P, param + j, prefetch_distance)
        load(G, grad + j, prefetch_distance)
        if has0:
            load(S0, s0 + j, prefetch_distance)
        if has1:
            load(S1, s1 + j, prefetch_distance)
        if has2:
            load(S2, s2 + j, prefetch_distance)
        for i in range(BLOCK):
            update_element(formula, division, constants, factor * G[i], P + i, S0 + i, S1 + i, S2 + i)
        store(param + j, P)
        if has0:
            store(s0 + j, S0)
        if has1:
            store(s1 + j, S1)
        if has2:
            store(s2 + j, S2)


cdef inline void advance(floating** array, Py_ssize_t n) noexcept nogil:
    # every pointer is stored: a vector of some of them could not be forwarded to the loads that follow, 50 ns on Zen 4
    cdef Py_ssize_t i
    for i in range(2 + MAX_STATES):
        array[i] = array[i] + n if array[i] != NULL else NULL


cdef void update_part_block(Formula* formula, Division* division, const Step* step, double scale, floating max_divisor, floating** array,
                            Py_ssize_t n) noexcept nogil:
    # n < BLOCK elements, in a padded copy; the pointers move past them.
    cdef floating block[(2 + MAX_STATES) * BLOCK]
    cdef floating* padded[2 + MAX_STATES]
    cdef Py_ssize_t i
    for i in range(2 + MAX_STATES):
        padded[i] = block + BLOCK * i
        if array[i] != NULL:
            copy_partial(padded[i], array[i], n, True)
    update_loop(formula, division, step, scale, max_divisor, padded, BLOCK)
    for i in range(2 + MAX_STATES):
        if array[i] != NULL and i != 1:
            copy_partial(array[i], padded[i], n, False)
    advance(array, n)


cdef void update_arrays(Formula* formula, Division* division, const Step* step, double scale, floating** array,
                        Py_ssize_t n) noexcept nogil:
    # n elements: up to the next cache line, whole blocks, the rest; the pointers move past them.
    cdef Py_ssize_t peeled = min(n, <Py_ssize_t>(-<size_t>array[0] % 64 // sizeof(floating)))    # to the next cache line
    cdef floating max_divisor = quotient_most(array[0][0])
    if peeled > 0:
        update_part_block(formula, division, step, scale, max_divisor, array, peeled)
        n -= peeled
    update_loop(formula, division, step, scale, max_divisor, array, n // BLOCK * BLOCK)
    advance(array, n // BLOCK * BLOCK)
    if n % BLOCK > 0:
        update_part_block(formula, division, step, scale, max_divisor, array, n % BLOCK)


cdef inline floating clipped(floating g, floating high) noexcept nogil:
    # NaN stays
    g = high if high < g else g
    return -high if -high > g else g


cdef void prepare_gradient(const floating* grad, const floating* param, floating* ready, double scale, double clip, double weight_decay,
                           Py_ssize_t n) noexcept nogil:
    # ready (n,) = clip(scale grad) + weight_decay param
    cdef floating factor = <floating>scale, high = <floating>clip, decay = <floating>weight_decay
    cdef Py_ssize_t i
    for i in range(n):
        ready[i] = clipped(factor * grad[i], high) + decay * param[i]


cdef void choose_division(Formula* formula, const Step* step, double scale, floating** array, Py_ssize_t n) noexcept nogil:
    # update_arrays with the step's way to divide; a formula without a root has one way.
    if (Formula is Plain or Formula is Momentum or Formula is Nesterov or Formula is Adamax or Formula is Lion) or not step.exact:
        update_arrays(formula, <Fast*>NULL, step, scale, array, n)
    else:
        update_arrays(formula, <Exact*>NULL, step, scale, array, n)


cdef void update_formula(Formula* formula, Tensor* t, double scale, double clip, const floating* grad,
                         Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # Elements start to stop of one tensor, grad (stop - start,) their gradient. A gradient that is clipped or decayed is
    # made ready piece by piece, in L1.
    cdef floating* array[2 + MAX_STATES]
    cdef floating ready[GRAD_BLOCK]
    cdef Py_ssize_t i, n
    array[0], array[1] = <floating*>t.param, NULL
    for i in range(MAX_STATES):
        array[2 + i] = <floating*>t.state[i]
    advance(array, start)
    array[1] = <floating*>grad
    if t.step.decay == 0 and clip == HUGE_VAL:
        choose_division(formula, &t.step, scale, array, stop - start)
        return
    while start < stop:
        n = min(stop - start, <Py_ssize_t>GRAD_BLOCK)
        prepare_gradient(grad, array[0], ready, scale, clip, t.step.decay, n)
        array[1] = ready
        choose_division(formula, &t.step, 1, array, n)
        grad += n
        start += n


cdef void update_tensor(int formula, Tensor* t, double scale, double clip, const floating* grad,
                        Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    if formula == PLAIN:
        update_formula(<Plain*>NULL, t, scale, clip, grad, start, stop)
    elif formula == MOMENTUM:
        update_formula(<Momentum*>NULL, t, scale, clip, grad, start, stop)
    elif formula == NESTEROV:
        update_formula(<Nesterov*>NULL, t, scale, clip, grad, start, stop)
    elif formula == SCALED:
        update_formula(<Scaled*>NULL, t, scale, clip, grad, start, stop)
    elif formula == SCALED_CENTERED:
        update_formula(<ScaledCentered*>NULL, t, scale, clip, grad, start, stop)
    elif formula == SCALED_MOMENTUM:
        update_formula(<ScaledMomentum*>NULL, t, scale, clip, grad, start, stop)
    elif formula == SCALED_CENTERED_MOMENTUM:
        update_formula(<ScaledCenteredMomentum*>NULL, t, scale, clip, grad, start, stop)
    elif formula == ADADELTA:
        update_formula(<Adadelta*>NULL, t, scale, clip, grad, start, stop)
    elif formula == ADAM and t.step.shrink == 1 and t.step.inside == 0:
        update_formula(<PlainAdam*>NULL, t, scale, clip, grad, start, stop)
    elif formula == ADAM:
        update_formula(<Adam*>NULL, t, scale, clip, grad, start, stop)
    elif formula == NADAM:
        update_formula(<Nadam*>NULL, t, scale, clip, grad, start, stop)
    elif formula == AMSGRAD:
        update_formula(<Amsgrad*>NULL, t, scale, clip, grad, start, stop)
    elif formula == ADAMAX:
        update_formula(<Adamax*>NULL, t, scale, clip, grad, start, stop)
    else:
        update_formula(<Lion*>NULL, t, scale, clip, grad, start, stop)
