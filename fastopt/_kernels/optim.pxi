# Optimizer updates: a rule is its arithmetic on one element and its constants for one step.
#
# - One loop walks memory for all rules (update_loop); the rule is a tag type, so
#   each gets its own vectorised copy. Every array is read once and written once.
# - Scalar corrections (bias correction, signs, dampening) are worked out in
#   float64 once per tensor and step, by prepare.
# - All tensors are one range, cut by elements, so many small ones share a region.
# - A tail shorter than 16 runs through the same loop in a padded copy: an element
#   has the same bits wherever it stands.

ctypedef struct Sgd:
    char unused
ctypedef struct Momentum:
    char unused
ctypedef struct Adam:
    char unused
ctypedef struct Amsgrad:
    char unused
ctypedef fused Rule:
    Sgd
    Momentum
    Adam
    Amsgrad

cdef enum:
    RULE_SGD, RULE_MOMENTUM, RULE_ADAM, RULE_AMSGRAD
    GRAIN = 64              # elements; 256 bytes: members do not share a cache line

cdef struct Options:        # of one parameter group
    double lr, momentum, dampening, weight_decay, beta1, beta2, eps
    bint nesterov, maximize, eps_inside_sqrt

cdef struct Step:           # constants of one step of one tensor
    double sign, decay, lr, a, b, c, d, e

cdef struct Tensor:
    int typenum
    Py_ssize_t size, group
    int64_t count           # steps taken
    Step step
    void *param
    void *grad              # NULL: skipped
    void *state[3]


cdef void prepare(int rule, const Options* o, Tensor* t) noexcept nogil:
    # counts the step and sets its constants
    cdef double correction1, correction2
    t.count += 1
    t.step.sign = -1 if o.maximize else 1
    t.step.decay, t.step.lr = o.weight_decay, o.lr
    if rule == RULE_ADAM or rule == RULE_AMSGRAD:
        correction1, correction2 = 1 - pow(o.beta1, <double>t.count), 1 - pow(o.beta2, <double>t.count)
        t.step.lr = o.lr / correction1
        t.step.a, t.step.b = o.beta1, 1 - o.beta1
        t.step.c, t.step.d = o.beta2, 1 - o.beta2
        t.step.e = 1 / correction2
    else:
        t.step.a = o.momentum
        t.step.b = 1 if t.count == 1 else 1 - o.dampening   # the first step is not dampened
        t.step.c = 1 if o.nesterov else 0                   # how much of g and of m goes into the step
        t.step.d = o.momentum if o.nesterov else 1


cdef void update_loop(Rule* rule, const Step* step, double eps_inside, double eps_outside,
                      floating* param, const floating* grad, floating* s0, floating* s1, floating* s2,
                      Py_ssize_t n) noexcept nogil:
    cdef floating sign = <floating>step.sign, decay = <floating>step.decay, lr = <floating>step.lr
    cdef floating a = <floating>step.a, b = <floating>step.b, c = <floating>step.c, d = <floating>step.d
    cdef floating e = <floating>step.e, inside = <floating>eps_inside, outside = <floating>eps_outside
    cdef floating p, g, m, v, top
    cdef Py_ssize_t i
    for i in range(n):
        p = param[i]
        g = sign * grad[i] + decay * p
        if Rule is Sgd:                         # theta - lr g
            param[i] = p - lr * g
        elif Rule is Momentum:                  # m = mu m + (1 - tau) g; theta - lr (m or g + mu m)
            m = a * s0[i] + b * g
            s0[i] = m
            param[i] = p - lr * (c * g + d * m)
        elif Rule is Adam:                      # theta - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
            m = a * s0[i] + b * g
            v = c * s1[i] + d * g * g
            s0[i] = m
            s1[i] = v
            param[i] = p - lr * m / (sqrt_of(v * e + inside) + outside)
        elif Rule is Amsgrad:                   # the running maximum of v takes v's place
            m = a * s0[i] + b * g
            v = c * s1[i] + d * g * g
            top = s2[i]
            top = top if top > v else v
            s0[i] = m
            s1[i] = v
            s2[i] = top
            param[i] = p - lr * m / (sqrt_of(top * e + inside) + outside)


cdef extern from "<math.h>" nogil:
    float sqrtf(float)


cdef inline floating sqrt_of(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef void update_range(Rule* rule, const Options* o, Tensor* t, floating* dummy, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    # elements start to stop of one tensor; the part beyond the last whole 16 in a padded copy
    cdef double inside = o.eps if o.eps_inside_sqrt else 0, outside = 0 if o.eps_inside_sqrt else o.eps
    cdef Py_ssize_t whole = (stop - start) // 16 * 16, rest = stop - start - whole, i
    cdef floating buffer[5 * 16]
    cdef floating* array[5]
    array[0], array[1] = <floating*>t.param, <floating*>t.grad
    for i in range(3):
        array[2 + i] = <floating*>t.state[i]
    for i in range(5):
        if array[i] != NULL:
            array[i] += start
    update_loop(rule, &t.step, inside, outside, array[0], array[1], array[2], array[3], array[4], whole)
    if rest == 0:
        return
    memset(buffer, 0, sizeof(buffer))
    for i in range(5):
        if array[i] != NULL:
            memcpy(buffer + 16 * i, array[i] + whole, rest * sizeof(floating))
    update_loop(rule, &t.step, inside, outside, buffer, buffer + 16, buffer + 32, buffer + 48, buffer + 64, 16)
    for i in range(5):
        if array[i] != NULL and i != 1:
            memcpy(array[i] + whole, buffer + 16 * i, rest * sizeof(floating))


cdef void update_tensor(int rule, const Options* o, Tensor* t, Py_ssize_t start, Py_ssize_t stop, floating* dtype) noexcept nogil:
    if rule == RULE_SGD:
        update_range(<Sgd*>NULL, o, t, dtype, start, stop)
    elif rule == RULE_MOMENTUM:
        update_range(<Momentum*>NULL, o, t, dtype, start, stop)
    elif rule == RULE_ADAM:
        update_range(<Adam*>NULL, o, t, dtype, start, stop)
    else:
        update_range(<Amsgrad*>NULL, o, t, dtype, start, stop)


cdef struct Plan:           # everything a step needs
    int rule
    Py_ssize_t n_tensors, total     # total: elements, each tensor rounded up to a grain
    Options* options                # (groups,)
    Tensor* tensors                 # (n_tensors,)


cdef void update_prepare(Plan* plan) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(plan.n_tensors):
        if plan.tensors[i].grad != NULL:
            prepare(plan.rule, &plan.options[plan.tensors[i].group], &plan.tensors[i])


cdef void update_share(Plan* plan, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # member's part of all tensors laid end to end, after update_prepare and a barrier
    cdef Py_ssize_t first = share(plan.total, GRAIN, member, team), last = share(plan.total, GRAIN, member + 1, team)
    cdef Py_ssize_t i, begin = 0, start, stop
    cdef Tensor* t
    for i in range(plan.n_tensors):
        t = &plan.tensors[i]
        start, stop = max(first - begin, 0), min(last - begin, t.size)
        if start < stop and t.grad != NULL:
            if t.typenum == cnp.NPY_FLOAT32:
                update_tensor(plan.rule, &plan.options[t.group], t, start, stop, <float*>NULL)
            else:
                update_tensor(plan.rule, &plan.options[t.group], t, start, stop, <double*>NULL)
        begin += (t.size + GRAIN - 1) // GRAIN * GRAIN


cdef void update_job(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    update_share(<Plan*>args, member, team)


# ---------------------------------------------------------------- entry points

cdef class Update:
    """The tensors of an optimizer, bound once: parameters, moments, gradients, options.

    Parameters
    ----------
    rule : str
        sgd, momentum, adam or amsgrad.
    params : list of (str, ndarray, int)
        Name, array to update in place, index of its group.
    states : list of tuple of ndarray
        The moments of each parameter, of its shape and dtype.
    n_groups : int
    """
    cdef Plan plan
    cdef list params, names, grads
    cdef object states

    def __cinit__(self, str rule, list params, list states, Py_ssize_t n_groups):
        cdef Py_ssize_t i, j
        cdef Tensor* t
        self.names, self.params = [name for name, _, _ in params], [a for _, a, _ in params]
        self.states, self.grads = states, [None] * len(params)
        self.plan.rule = ("sgd", "momentum", "adam", "amsgrad").index(rule)
        self.plan.n_tensors = len(params)
        self.plan.options = <Options*>aligned_block(n_groups * sizeof(Options))
        self.plan.tensors = <Tensor*>aligned_block(len(params) * sizeof(Tensor))
        for i, (name, a, group) in enumerate(params):
            t = &self.plan.tensors[i]
            t.typenum = float_type(name, a)
            as_output(name, a, t.typenum, a.shape)
            check_apart(((name, a),), tuple(zip(self.names[:i], self.params[:i])))
            t.size, t.group, t.param = a.size, group, data(a)
            for j, state in enumerate(states[i]):
                t.state[j] = data(as_output(f"state of {name}", state, t.typenum, a.shape))
            self.plan.total += (t.size + GRAIN - 1) // GRAIN * GRAIN

    def __dealloc__(self):
        free(self.plan.options)
        free(self.plan.tensors)

    def set_options(self, Py_ssize_t group, double lr, double momentum=0, double dampening=0, double weight_decay=0,
                    double beta1=0, double beta2=0, double eps=0, bint nesterov=False, bint maximize=False,
                    bint eps_inside_sqrt=False):
        self.plan.options[group] = Options(lr, momentum, dampening, weight_decay, beta1, beta2, eps, nesterov, maximize, eps_inside_sqrt)

    @property
    def counts(self):
        """Steps taken by each parameter."""
        return [self.plan.tensors[i].count for i in range(self.plan.n_tensors)]

    @counts.setter
    def counts(self, values):
        for i, value in enumerate(values):
            self.plan.tensors[i].count = value

    def bind(self, grads):
        """Check gradients once and keep them; None skips a parameter."""
        cdef Py_ssize_t i
        grads = list(grads)
        if len(grads) != self.plan.n_tensors:
            raise ValueError(f"grads: expected {self.plan.n_tensors} arrays, one a parameter, got {len(grads)}; pass None for one to skip")
        for i in range(self.plan.n_tensors):
            if grads[i] is not self.grads[i] and grads[i] is not None:
                grads[i] = self.checked_grad(i, grads[i])
        self.grads = grads
        for i in range(self.plan.n_tensors):
            self.plan.tensors[i].grad = NULL if grads[i] is None else data(grads[i])

    cdef object checked_grad(self, Py_ssize_t i, object grad):
        param = self.params[i]
        cdef int typenum = self.plan.tensors[i].typenum
        if float_type(f"grads[{i}]", grad) != typenum:
            raise TypeError(f"grads[{i}]: expected dtype {param.dtype} to match {self.names[i]}, got {grad.dtype}; "
                            f"pass its .astype(np.{param.dtype})")
        if grad.shape != param.shape:
            way_out = "; pass its transpose" if grad.shape == param.shape[::-1] else ""
            raise ValueError(f"grads[{i}]: expected shape {param.shape} to match {self.names[i]}, got {grad.shape}{way_out}")
        if not is_plain(grad, typenum, param.ndim):
            raise ValueError(f"grads[{i}]: expected a C-contiguous, aligned array, got strides {grad.strides}; "
                             f"pass np.ascontiguousarray(grad)")
        cdef char* start = <char*>data(grad)
        cdef char* stop = start + cnp.PyArray_NBYTES(<cnp.ndarray>grad)
        cdef Py_ssize_t j
        cdef Tensor* t
        for j in range(self.plan.n_tensors):
            t = &self.plan.tensors[j]
            if start < <char*>t.param + t.size * (4 if t.typenum == cnp.NPY_FLOAT32 else 8) and <char*>t.param < stop:
                raise ValueError(f"grads[{i}]: expected memory of its own, got an array that overlaps {self.names[j]}; pass a copy")
        return grad

    def step(self):
        """One update of every bound parameter."""
        cdef Plan* plan = &self.plan
        with nogil:
            update_prepare(plan)
            team_run(update_job, plan, team_for(4 * plan.total))


cdef void* aligned_block(size_t size) except NULL:
    # zeroed, on a cache line of its own
    cdef void* block = NULL
    if posix_memalign(&block, 64, size + 64) != 0:
        raise MemoryError(f"no memory for {size} bytes")
    memset(block, 0, size)
    return block
