# The optimizer's side of a step: arrays checked and bound, options, states, and the step itself.

cdef struct Interval:           # memory of a parameter
    char *start
    char *stop
    Py_ssize_t index


cdef class Update:
    """The tensors of an optimizer, bound once: parameters, moments, gradients, options.

    Parameters
    ----------
    convert : callable
        Makes an ndarray of a gradient that is not one: ``convert(name, object)``.
    check_finite : None, "raise" or "skip"
    max_norm, clip_value : float or None
    accumulate : int
    ema_decay : float
    """
    cdef Plan plan
    cdef Interval* intervals                # of the parameters that are not empty, in the order of their addresses
    cdef Py_ssize_t n_intervals
    cdef object convert, table
    cdef list names, params, holders        # holders: the arrays that the plan points to
    cdef list bound, held                   # gradients: those given to bind, those the plan points to now
    cdef list seen                          # per group: the keys and values sent last; None: they must be sent anew
    # busy: the process (team_process) in which a step is under way; away: in which the parameters stand at the interim
    # point or are averages; 0: none. A forked child, which lacks the thread that set them, finds another number there.
    cdef int busy, swapped
    cdef list home                          # copies of the parameters while they are averages

    def __cinit__(self, convert, check_finite, max_norm, clip_value, Py_ssize_t accumulate, double ema_decay):
        self.convert = convert
        self.names, self.params, self.holders, self.seen = [], [], [], []
        self.plan.check_finite = (None, "raise", "skip").index(check_finite)
        self.plan.clips_norm, self.plan.max_norm = max_norm is not None, max_norm or 0
        self.plan.clip, self.plan.accumulate, self.plan.ema_decay = clip_value or HUGE_VAL, accumulate, ema_decay
        self.plan.checked = check_finite is not None or self.plan.clips_norm or accumulate > 1
        self.plan.scale, self.plan.share, self.plan.norm = 1, 1, NAN

    def __dealloc__(self):
        free(self.plan.options)
        free(self.plan.tensors)
        free(self.plan.partials)
        free(self.intervals)

    def add_group(self, list params):
        """Take in a group of (name, array) parameters; nothing has changed if one is refused."""
        cdef Plan* plan = &self.plan
        cdef Py_ssize_t i, first = plan.n_tensors
        cdef Tensor* t
        cdef Py_ssize_t n_partials = plan.n_partials
        self.require_idle()
        for name, a in params:
            as_output(name, a, float_type(name, a), a.shape)
            n_partials += (a.size + NORM_BLOCK - 1) // NORM_BLOCK
        check_disjoint([*zip(self.names, self.params), *params])
        plan.options = <Options*>grown(plan.options, plan.n_groups * sizeof(Options), sizeof(Options))
        plan.tensors = <Tensor*>grown(plan.tensors, first * sizeof(Tensor), len(params) * sizeof(Tensor))
        self.intervals = <Interval*>grown(self.intervals, self.n_intervals * sizeof(Interval), len(params) * sizeof(Interval))
        plan.partials = <double*>grown(plan.partials, 0, n_partials * sizeof(double))
        for i, (name, a) in enumerate(params):
            t = &plan.tensors[first + i]
            t.typenum, t.size, t.group, t.param, t.product = float_type(name, a), a.size, plan.n_groups, data(a), 1
            plan.n_bytes += padded_bytes(t)
            plan.n_elements += t.size
            self.names.append(name)
            self.params.append(a)
            self.holders.append(None)
        plan.n_tensors += len(params)
        plan.n_groups += 1
        plan.n_partials = n_partials
        self.seen.append(None)
        self.bound = self.held = None
        self.sort_intervals()

    cdef void sort_intervals(self):
        cdef Py_ssize_t i
        cdef Tensor* t
        ends = sorted((<size_t>self.plan.tensors[i].param, i) for i in range(self.plan.n_tensors) if self.plan.tensors[i].size)
        self.n_intervals = len(ends)
        for i, (_, k) in enumerate(ends):
            t = &self.plan.tensors[<Py_ssize_t>k]
            t.disjoint = NULL       # a gradient bound earlier may overlap the new parameters
            self.intervals[i] = Interval(<char*>t.param, <char*>t.param + t.size * item_bytes(t), k)

    # --- options

    def settled(self, list groups):
        """Whether the groups hold the very objects that were sent last, and the table lasts."""
        cdef Py_ssize_t i, k, position
        cdef PyObject *key
        cdef PyObject *value
        cdef tuple seen
        if len(groups) != self.plan.n_groups or (self.plan.n_rows > 0 and self.plan.row >= self.plan.n_rows):
            return False
        for i in range(self.plan.n_groups):
            if self.seen[i] is None or type(groups[i]) is not dict:
                return False
            seen = <tuple>self.seen[i]
            if 2 * len(<dict>groups[i]) != len(seen):
                return False
            k = position = 0
            while PyDict_Next(<dict>groups[i], &position, &key, &value):
                if key != <PyObject*>seen[k] or value != <PyObject*>seen[k + 1]:
                    return False
                k += 2
        return True

    def set_options(self, Py_ssize_t group, str rule, str formula, dict numbers, bint interim, bint lr_in_velocity,
                    bint maximize, bint eps_inside_sqrt, bint decoupled_weight_decay, seen):
        """Options of a group; `seen` is what `settled` compares: its keys and values, or None."""
        self.require_idle()
        cdef Options* o = &self.plan.options[group]
        o.rule, o.formula = RULES.index(rule), FORMULAS.index(formula)
        o.interim, o.lr_in_velocity, o.maximize = interim, lr_in_velocity, maximize
        o.eps_inside_sqrt, o.decoupled_weight_decay = eps_inside_sqrt, decoupled_weight_decay
        for name, value in numbers.items():
            o.number[<Py_ssize_t>NUMBERS.index(name)] = value
        self.seen[group] = seen
        self.plan.interim = False
        for i in range(self.plan.n_groups):
            self.plan.interim |= self.plan.options[<Py_ssize_t>i].interim

    def set_table(self, list columns):
        """Options of the coming updates: (group, name, values) each, values of one length."""
        self.require_idle()
        table = np.array([values for _, _, values in columns], np.float64)
        targets = np.array([group * N_NUMBERS + NUMBERS.index(name) for group, name, _ in columns], np.intp)
        self.table = (table, targets)
        self.plan.table, self.plan.targets = <double*>data(table), <Py_ssize_t*>data(targets)
        self.plan.n_columns, self.plan.n_rows, self.plan.row = len(columns), table.shape[1] if columns else 0, 0

    # --- state

    def set_arrays(self, Py_ssize_t i, tuple moments, ema=None, sum=None, home=None):
        """What is kept for parameter i, of its shape and dtype; None where nothing is."""
        self.require_idle()
        cdef Tensor* t = &self.plan.tensors[i]
        cdef Py_ssize_t slot
        self.holders[i] = (moments, ema, sum, home)
        for slot in range(MAX_STATES):
            t.state[slot] = self.kept(i, moments[slot]) if slot < len(moments) else NULL
        t.ema, t.sum, t.home = self.kept(i, ema), self.kept(i, sum), self.kept(i, home)

    cdef void* kept(self, Py_ssize_t i, object array) except? NULL:
        if array is None:
            return NULL
        return data(as_output(f"state of {self.names[i]}", array, self.plan.tensors[i].typenum, (<object>self.params[i]).shape))

    def get_counts(self, Py_ssize_t i):
        """Of parameter i: steps taken, whether its velocity has started, product of momenta, whether a sum is under way."""
        cdef Tensor* t = &self.plan.tensors[i]
        return t.count, t.started, t.product, t.summed

    def set_counts(self, Py_ssize_t i, int64_t count, bint started, double product, bint summed):
        self.require_idle()
        cdef Tensor* t = &self.plan.tensors[i]
        t.count, t.started, t.product, t.summed = count, started, product, summed

    @property
    def updates(self):
        """Updates done."""
        return self.plan.updates

    @updates.setter
    def updates(self, value):
        self.plan.updates = value

    @property
    def accumulated(self):
        """Calls since the last update, under accumulation."""
        return self.plan.accumulated

    @accumulated.setter
    def accumulated(self, value):
        self.plan.accumulated = value

    @property
    def skipped(self):
        """Steps left out because a gradient was not finite."""
        return self.plan.skipped

    @property
    def norm(self):
        """Norm of all gradients at the last update; NaN before, and without max_norm."""
        return self.plan.norm

    # --- gradients

    def bind(self, grads):
        """Check gradients once and keep them; None skips a parameter."""
        self.require_idle()
        self.set_grads(grads)
        self.bound = self.held

    cdef void set_grads(self, object grads) except *:
        # Points the plan to gradients, once all of them fit.
        cdef Py_ssize_t i
        cdef list given
        cdef Tensor* t
        if isinstance(grads, (dict, set, frozenset)):
            raise TypeError(f"grads: expected a list of arrays in the order of the parameters, got a {type(grads).__name__}")
        given = list(grads)
        if len(given) != self.plan.n_tensors:
            raise ValueError(f"grads: expected {self.plan.n_tensors} arrays, one a parameter, got {len(given)}; pass None for one to skip")
        for i in range(self.plan.n_tensors):
            if given[i] is not None:
                if not self.fits(i, given[i]):
                    given[i] = self.fitting(i, given[i])
                if data(given[i]) != self.plan.tensors[i].disjoint:
                    self.check_no_overlap_with_params(i, given[i])
        for i in range(self.plan.n_tensors):
            t = &self.plan.tensors[i]
            t.grad = NULL if given[i] is None else data(given[i])
            t.disjoint = t.grad
        self.held = given

    cdef void freeze(self, list frozen):
        # by parameter, whether the steps to come leave it as it is; what is summed of its gradients is dropped
        cdef Py_ssize_t i
        for i in range(self.plan.n_tensors):
            self.plan.tensors[i].frozen = frozen[i]
            self.plan.tensors[i].summed &= not self.plan.tensors[i].frozen

    cpdef int require_in_place(self) except -1:
        """Raise ValueError unless every parameter can be written, and lies where it did when it was taken in."""
        cdef Py_ssize_t i
        cdef list params = self.params
        cdef const Tensor* t = self.plan.tensors
        for i in range(self.plan.n_tensors):
            if not (lies_at(<cnp.ndarray>params[i], t[i].param, t[i].size) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>params[i])):
                refuse_changed(self.names[i], params[i])
        return 0

    cdef bint bound_in_place(self):
        # Whether the bound gradients still lie where the plan points.
        cdef Py_ssize_t i
        cdef list bound = self.bound
        cdef const Tensor* t = self.plan.tensors
        for i in range(self.plan.n_tensors):
            if bound[i] is not None and not lies_at(<cnp.ndarray>bound[i], t[i].grad, t[i].size):
                return False
        return True

    cdef bint fits(self, Py_ssize_t i, object grad):
        cdef cnp.ndarray param = <cnp.ndarray>self.params[i]
        return (is_plain(grad, self.plan.tensors[i].typenum, cnp.PyArray_NDIM(param))
                and cnp.PyArray_SAMESHAPE(<cnp.ndarray>grad, param))

    cdef object fitting(self, Py_ssize_t i, object grad):
        # The gradient as an array that fits; raises what is wrong with it.
        self.require_in_place()
        name, param = f"grads[{i}]", self.params[i]
        cdef int typenum = self.plan.tensors[i].typenum
        grad = self.convert(name, grad)
        if float_type(name, grad) != typenum:
            raise TypeError(f"{name}: expected dtype {param.dtype} to match {self.names[i]}, got {grad.dtype}; "
                            f"pass its .astype(np.{param.dtype})")
        if grad.shape != param.shape:
            way_out = "; pass its transpose" if grad.shape == param.shape[::-1] else ""
            raise ValueError(f"{name}: expected shape {param.shape} to match {self.names[i]}, got {grad.shape}{way_out}")
        if not is_plain(grad, typenum, param.ndim):
            raise ValueError(f"{name}: expected a C-contiguous, aligned array, got strides {grad.strides}; "
                             f"pass np.ascontiguousarray(grad)")
        return grad

    cdef int check_no_overlap_with_params(self, Py_ssize_t i, object grad) except -1:
        # Bisection: the first parameter that ends after the gradient starts must not start before the gradient ends.
        cdef char* start = <char*>data(grad)
        cdef char* stop = start + cnp.PyArray_NBYTES(<cnp.ndarray>grad)
        cdef Py_ssize_t low = 0, high = self.n_intervals, middle
        while low < high:
            middle = (low + high) // 2
            if self.intervals[middle].stop > start:
                high = middle
            else:
                low = middle + 1
        if low < self.n_intervals and self.intervals[low].start < stop:
            raise ValueError(f"grads[{i}]: expected memory of its own, got an array that overlaps "
                             f"{self.names[self.intervals[low].index]}; pass a copy")
        return 0

    # --- steps

    def require_idle(self):
        """Raise RuntimeError while a step runs, or the parameters are swapped."""
        if self.busy == team_process:
            raise RuntimeError("step: this optimizer is at work in another thread; give each thread its own, or a lock")
        if self.swapped == team_process:
            raise RuntimeError("step: the parameters are at the interim point or averaged; leave that block first")
        self.restore_params()

    cdef int enter(self) except -1:
        self.require_idle()
        self.busy = team_process
        return 0

    cdef void leave(self) noexcept:
        self.busy = 0

    def __enter__(self):
        """A step that Python makes: other threads are refused until the block ends."""
        self.enter()

    cdef void count_steps(self, list counts):
        # an update of these parameters, (number, steps taken by now), has been made
        for k, count in counts:
            self.plan.tensors[<Py_ssize_t>k].count = count
        self.plan.updates += 1

    def __exit__(self, *error):
        self.leave()

    cdef int report_refusal(self) except -1:
        # After a run: raises for the gradient that made it stop.
        if self.plan.refused:
            for name, grad in enumerate(self.held):
                if grad is not None and not np.isfinite(grad).all():
                    place = tuple(int(k) for k in np.argwhere(~np.isfinite(grad))[0])
                    raise FloatingPointError(f"grads[{name}]: expected finite values, got {grad[place]} at {place}; "
                                             f"no parameter has been changed")
        return 0

    def step(self, grads=None):
        """One update of every parameter with `grads`, or with those bound before."""
        cdef Plan* plan = &self.plan
        self.enter()
        try:
            if grads is not None:
                self.set_grads(grads)
            elif self.bound is None:
                raise ValueError("step: expected gradients, got none; pass step(grads), or call bind(grads) before")
            elif self.held is not self.bound or not self.bound_in_place():
                self.set_grads(self.bound)
            self.require_in_place()
            with nogil:
                update_begin(plan)
                if not plan.checked:
                    update_prepare(plan)
                team_run(update_job, plan, threads_for(4 * plan.n_elements))
        finally:
            self.leave()
        self.report_refusal()
        if grads is not None:
            self.held = None

    cdef int enter_interim(self) except -1:
        # Moves every parameter of an interim group to the point where its gradient is wanted; a bound None says that none is.
        cdef Py_ssize_t i
        self.require_in_place()
        self.enter()
        for i in range(self.plan.n_tensors):
            self.plan.tensors[i].frozen = self.bound is not None and self.bound[i] is None
        self.held = None        # a training that freezes others says so anew
        with nogil:
            update_begin(&self.plan)
            team_run(interim_job, &self.plan, threads_for(4 * self.plan.n_elements))
        self.busy, self.swapped = 0, team_process
        return 0

    cdef int enter_averages(self) except -1:
        # Puts moving averages in the place of their parameters, which are copied first.
        cdef Py_ssize_t i
        cdef Tensor* t
        self.require_idle()
        self.require_in_place()
        self.home = [param.copy() for param in self.params]
        self.swapped = team_process
        for i in range(self.plan.n_tensors):
            t = &self.plan.tensors[i]
            if t.ema != NULL and t.count > 0:
                memcpy(t.param, t.ema, t.size * item_bytes(t))
        return 0

    cdef int restore_params(self) except -1:
        # Puts the parameters back where enter_interim or enter_averages found them, if they have left.
        cdef Py_ssize_t i
        cdef Tensor* t
        if self.swapped:
            for i in range(self.plan.n_tensors):
                t = &self.plan.tensors[i]
                if not lies_at(<cnp.ndarray>self.params[i], t.param, t.size):
                    self.swapped, self.home = 0, None
                    refuse_changed(self.names[i], self.params[i])
        if self.swapped and self.home is None:
            with nogil:
                team_run(restore_job, &self.plan, threads_for(4 * self.plan.n_elements))
        elif self.swapped:
            for i in range(self.plan.n_tensors):
                t = &self.plan.tensors[i]
                memcpy(t.param, data(self.home[i]), t.size * item_bytes(t))
        self.swapped, self.home = 0, None
        return 0


cdef class SwappedParams:
    """The parameters of an optimizer at their interim point, or its averages in their place, while a block lasts."""
    cdef object optimizer
    cdef Update update
    cdef bint averages

    def __init__(self, optimizer, Update update, *, bint averages):
        self.optimizer, self.update, self.averages = optimizer, update, averages

    def __enter__(self):
        if self.averages:
            self.update.enter_averages()
        else:
            self.update.enter_interim()
        return self.optimizer

    def __exit__(self, *error):
        self.update.restore_params()


cdef inline bint lies_at(cnp.ndarray a, const void* place, Py_ssize_t size):
    # Whether an array of `size` elements still begins at `place`: ndarray.resize(refcheck=False) moves it.
    return cnp.PyArray_DATA(a) == place and cnp.PyArray_SIZE(a) == size and cnp.PyArray_IS_C_CONTIGUOUS(a)


cdef int refuse_changed(str name, object a) except -1:
    if not a.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got one that has been made read-only since; "
                         f"set its flags.writeable again, or leave it out")
    raise ValueError(f"{name}: expected the array as it was taken in, got one resized or moved since, of shape {a.shape}; "
                     f"make the optimizer anew")
