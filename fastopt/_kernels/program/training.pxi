# A program bound to a loss, with gradients, scratch and perhaps an update: what networks and Trainers call.

cdef class Training:
    """A program bound to a loss, with gradients, scratch and, unless None, the update of an optimizer.

    Without a loss, None, the caller finds it and the gradient of the output between two parts of a `PartedStep`.
    """
    cdef object __weakref__
    cdef readonly Program program
    cdef Workspace workspace
    cdef Workspace tangents                 # None until a Hessian-vector product asks for it
    cdef Update update
    cdef str loss
    cdef Loss rule
    cdef object class_weight                # an array that the rule points to
    cdef object row_weights                 # an array that the call under way points to
    cdef readonly double batch_weight       # the sum of weights that the mean loss of the last step was divided by
    cdef public Py_ssize_t epoch            # number of the epoch under way
    cdef public Py_ssize_t position         # its next sample
    cdef public Py_ssize_t batches          # trained on so far
    cdef public double loss_sum, weight_sum  # of its batches so far
    cdef readonly object gradient           # one flat array, which holds grads
    cdef readonly list grads                # None for one that nobody asks for, of a weight that is frozen
    cdef void** dparams
    cdef Py_ssize_t rows                    # samples of the last step

    def __cinit__(self, Program program, str loss, Update update, Py_ssize_t max_batch, *,
                  delta=1.0, label_smoothing=0.0, class_weight=None, ignore_index=IGNORE_INDEX):
        cdef Py_ssize_t i
        if loss is not None:
            check_loss(loss)
        if program.packed:
            raise ValueError("program: expected weights as they are trained, got packed ones")
        self.class_weight = fill_loss(&self.rule, delta, label_smoothing, class_weight, ignore_index, program.typenum,
                                      program.n_out)
        self.program, self.loss, self.update = program, loss, update
        self.dparams = <void**>aligned_block(len(program.grad_shapes) * sizeof(void*))
        self.hold_gradient(program.new_block())
        self.workspace = Workspace(program, max_batch, True)

    def __dealloc__(self):
        free(self.dparams)

    def hold_gradient(self, gradient):
        """Put the gradients of all steps to come into this flat array of zeros, as long as `gradient` is."""
        self.gradient = as_output("gradient", gradient, self.program.typenum, (self.program.n_gradient,))
        grads = self.program.grads_in(gradient)
        for i, grad in enumerate(grads):
            self.dparams[i] = data(grad)
        self.grads = [None if frozen else grad for grad, frozen in zip(grads, self.program.frozen)]

    @property
    def max_batch(self):
        return self.workspace.capacity

    @property
    def saved_bytes(self):
        """What the workspace keeps for backward besides values and their gradients."""
        return self.workspace.saved_bytes

    def check(self, x, targets, sample_weight=None):
        """The arrays as the kernels take them; raises what `step` and `run` would.

        Without a loss, targets are as they come.
        """
        cdef int typenum = self.program.typenum
        x = self.program.rows(x)
        weights = as_weights("sample_weight", sample_weight, typenum, x.shape[0])
        if self.loss is None:
            return x, targets, weights
        if self.program.positions > 1:
            return x, self.image_targets(targets, x.shape[0], weights), weights
        targets = as_targets(self.loss, targets, typenum, x.shape[0], self.program.n_out, self.rule.ignore, weights)
        return x, targets, weights

    cdef object image_targets(self, object targets, Py_ssize_t n, object weights):
        # checks targets of images as rows, one a position: classes (n, height, width), others (n, height, width, channels)
        targets = targets if is_array(targets) else _arrays.as_numbers("targets", targets)
        height, width, channels = self.program.output_shape
        flat = targets.ndim == 3 and (channels == 1 or self.loss == "cross_entropy")     # one output needs no axis of its own
        shape = (n, height, width) if flat else (n, height, width, channels)
        check_shape("targets", targets, shape)
        rows = n * height * width
        weights = None if weights is None else np.repeat(weights, height * width)
        targets = as_targets(self.loss, self.as_rows(targets), self.program.typenum, rows, channels, self.rule.ignore, weights)
        return targets.reshape(shape)

    cdef object as_rows(self, object targets):
        # targets of images, a row for each position
        return targets.reshape(-1) if targets.ndim == 3 else targets.reshape(-1, self.program.n_out)

    cpdef tuple check_batch(self, object x, object targets, object sample_weight=None):
        """`check` of a batch that is to be trained on, which needs rows."""
        self.program.require_alone()
        x, targets, weights = self.check(x, targets, sample_weight)
        if x.shape[0] == 0:
            raise ValueError("x: expected at least one row, got none")
        if x.shape[0] < self.program.least_rows:
            raise ValueError("x: expected at least two rows to take batch statistics of, got 1; predict and evaluate take one")
        return x, targets, weights

    cdef int require_compiled_loss(self) except -1:
        if self.loss is None:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, whose derivatives are compiled, got a callable")
        return 0

    cdef void fill(self, TrainCall* c, object x, object targets, object weights, Py_ssize_t batch) except *:
        if batch > self.workspace.capacity:
            self.workspace = Workspace(self.program, batch, True)
        self.program.start(&c.run, self.workspace, True)
        c.run.dparams = self.dparams
        c.loss, c.given = self.rule, self.loss is None
        if not c.given:
            c.loss.kind = kind_of(self.loss, targets if self.program.positions == 1 else self.as_rows(targets))
            c.target_bytes, c.targets = targets.nbytes // x.shape[0], data(targets)
        c.n, c.n_out, c.positions, c.position, c.batches = x.shape[0], self.program.n_out, self.program.positions, 0, 0
        c.x_bytes, c.run.x_typenum = x.nbytes // x.shape[0], cnp.PyArray_TYPE(<cnp.ndarray>x)
        c.weight_bytes, c.x = self.program.positions * self.program.item, data(x)
        if weights is not None and self.program.positions > 1:
            weights = self.row_weights = np.repeat(weights, self.program.positions)
        c.weights = NULL if weights is None else data(weights)
        c.order, c.row_loss = NULL, self.workspace.row_loss
        c.batch_x, c.batch_targets, c.batch_weights = self.workspace.batch_x, self.workspace.batch_targets, self.workspace.batch_weights
        c.run.plan = NULL if self.update is None else &self.update.plan
        c.run.may_fuse, c.run.step = self.may_fuse(), self.batches
        c.deadline = c.loss_sum = c.weight_sum = 0
        c.undefined = False

    cdef bint may_fuse(self) noexcept:
        # whether no gradient of weights has to be whole before the first update, and the optimizer has all weights that fuse
        cdef Plan* plan = NULL if self.update is None else &self.update.plan
        cdef Entry* e
        cdef Py_ssize_t i, found = 0
        if not can_fuse(plan) or plan.n_tensors != len(self.grads):
            return False
        for i in range(self.program.n_entries):
            e = &self.program.entries[i]
            if e.fuses:
                found += e.n_weights
                if plan.tensors[e.weights[0].grad].param != e.weights[0].at:
                    return False
            elif e.frozen:
                found += e.n_weights
        return found == plan.n_tensors or not plan.clips_norm

    cdef void execute(self, TrainCall* c, Py_ssize_t rows) except *:
        # the one region of a call
        cdef Py_ssize_t n_threads = self.make_ready(c, rows)
        with nogil:
            run_typed(self.program.typenum, train_job[float], train_job[double], c, n_threads)

    cdef Py_ssize_t make_ready(self, TrainCall* c, Py_ssize_t rows) except -1:
        # what a region needs; returns its threads: backward does twice the work of forward, between twice as many barriers
        cdef Py_ssize_t each = rows if self.update is None else rows + UPDATE_WORK
        cdef Py_ssize_t n_threads = threads_for(each * self.program.work // self.program.n_entries)
        self.workspace.reserve(n_threads)
        c.run.thread_scratch = <char*>self.workspace.threads
        if self.update is not None:
            self.require_in_place()
            if self.update.held is not self.grads:
                self.update.set_grads(self.grads)
                self.update.freeze(self.program.frozen)
                self.update.held = self.grads
        return n_threads

    cpdef int require_in_place(self) except -1:
        """Raise ValueError unless everything that a step writes can be written, and lies where it did."""
        if self.update is not None:
            self.update.require_in_place()
        return self.program.require_writable()

    def step(self, x, targets, sample_weight=None, bint in_epoch=False):
        """One batch: forward, loss, backward and, with an optimizer, update; returns the mean loss.

        With `in_epoch` the samples count as samples of the epoch under way, as in `run`.
        """
        cdef TrainCall c
        cdef int64_t rows
        x, targets, weights = self.check_batch(x, targets, sample_weight)
        self.require_compiled_loss()
        rows = self.rows = x.shape[0]
        self.enter()
        try:
            self.fill(&c, x, targets, weights, rows)
            c.sizes, c.n_sizes = &rows, 1
            c.run.values[0] = c.x
            self.execute(&c, rows)
            if in_epoch:
                self.position += c.position
                self.loss_sum += c.loss_sum
                self.weight_sum += c.weight_sum
        finally:
            self.leave()
        self.report(&c)
        if self.update is not None:
            self.batches += 1
        self.batch_weight = c.batch_weight
        return c.batch_loss

    def hvp(self, x, targets, v, sample_weight=None, *, bint gauss_newton=False, bint again=False):
        """The Hessian of the mean loss of a batch, or its Gauss-Newton part, times v; new arrays.

        `v` holds an array for each parameter; what is frozen does not move, and has zeros in the product. With `again`, samples,
        targets, weights and parameters are those of the last call, `step` or `hvp`, and forward is not repeated.
        """
        cdef TrainCall c
        cdef Py_ssize_t i, n_params = len(self.grads)
        self.require_compiled_loss()
        x, targets, weights = self.check_batch(x, targets, sample_weight)
        v = list(v)
        if len(v) != n_params:
            raise ValueError(f"v: expected {n_params} arrays, one a parameter, got {len(v)}")
        v = [as_numbers(f"v[{i}]", a, self.program.typenum, self.program.grad_shapes[i]) for i, a in enumerate(v)]
        v = [np.zeros_like(a) if frozen else a for a, frozen in zip(v, self.program.frozen)]
        product, pointers = self.program.new_grads(), np.empty(2 * n_params + 1, np.uintp)
        for i in range(n_params):
            pointers[i], pointers[n_params + i] = <size_t>data(v[i]), <size_t>data(product[i])
        self.enter()
        try:
            self.fill(&c, x, targets, weights, x.shape[0])
            if self.tangents is None or self.tangents.capacity < self.workspace.capacity:
                self.tangents = Workspace(self.program, self.workspace.capacity, True, True)
            c.run.tangents, c.run.dtangents, c.run.tscratch = self.tangents.values, self.tangents.dvalues, self.tangents.scratch
            c.run.tsaved, c.run.tz = self.tangents.saved, self.tangents.z
            c.run.directions, c.run.dparams = <void**>data(pointers), <void**>data(pointers) + n_params
            c.run.values[0], c.run.plan, c.run.n = c.x, NULL, x.shape[0]
            c.run.samples, c.gauss_newton, c.forward_known = c.run.n, gauss_newton, again
            n_threads = threads_for(c.run.samples * self.program.work // self.program.n_entries)
            self.workspace.reserve(n_threads)
            c.run.thread_scratch = <char*>self.workspace.threads
            with nogil:
                run_typed(self.program.typenum, hvp_job[float], hvp_job[double], &c, n_threads)
        finally:
            self.leave()
        for i in range(n_params):
            if self.program.frozen[i]:
                product[i][...] = 0
        return product

    def finish(self):
        """Do what is left where the caller makes the step: running averages take in what the last forward has seen, and
        rows of weights are brought back to their largest norm."""
        cdef Run run
        self.program.start(&run, self.workspace, True)
        run.samples = self.rows
        run_typed(self.program.typenum, after_batch_job[float], after_batch_job[double], &run, 1)
        run_typed(self.program.typenum, max_norm_job[float], max_norm_job[double], &run, 1)

    cdef int enter(self) except -1:
        # takes the optimizer, and with it the workspace, for one call at a time
        if self.update is not None:
            self.update.enter()
        return 0

    cdef void leave(self) noexcept:
        if self.update is not None:
            self.update.leave()

    cdef int report(self, TrainCall* c) except -1:
        # raises what made a call stop before its time
        if c.undefined:
            refuse_undefined()
        return self.update.report_refusal() if self.update is not None else 0

    def run(self, x, targets, sample_weight, order, sizes, double seconds):
        """Train on batches of checked data in the given order of samples, from `position` on, for about `seconds`.

        `sizes` holds the samples of the coming batches. `position`, `batches`, `loss_sum` and `weight_sum` are moved on
        before it returns, so that Ctrl-C cannot part them from the updates.
        """
        cdef TrainCall c
        self.program.require_alone()
        if not (is_plain(order, cnp.NPY_INT64, 1) and is_plain(sizes, cnp.NPY_INT64, 1)):
            order, sizes = np.require(order, np.int64, ["C", "A"]), np.require(sizes, np.int64, ["C", "A"])
        cdef int64_t* rows = <int64_t*>data(sizes)
        cdef Py_ssize_t batch = 1, i
        for i in range(cnp.PyArray_DIM(<cnp.ndarray>sizes, 0)):
            batch = max(batch, <Py_ssize_t>rows[i])
        batch = min(batch, <Py_ssize_t>x.shape[0])
        self.enter()
        try:
            if not 0 <= self.position < x.shape[0]:
                raise ValueError(f"X: expected more than the {self.position} rows the interrupted epoch used, got {x.shape[0]}")
            self.fill(&c, x, targets, sample_weight, batch)
            c.order, c.position, c.loss_sum, c.weight_sum = <int64_t*>data(order), self.position, self.loss_sum, self.weight_sum
            c.sizes, c.n_sizes = rows, cnp.PyArray_DIM(<cnp.ndarray>sizes, 0)
            c.run.values[0] = c.batch_x
            c.deadline = team_seconds() + seconds
            self.execute(&c, batch)
            self.position, self.loss_sum, self.weight_sum = c.position, c.loss_sum, c.weight_sum
            self.batches += c.batches
        finally:
            self.leave()
        self.report(&c)

    cdef void count_batch(self, Py_ssize_t rows, double loss, double weight) noexcept:
        # a batch that a step has been made of, and what the epoch under way has of it: nothing outside of one
        self.batches += 1
        self.position += rows
        if weight != 0:         # else the loss may be infinite
            self.loss_sum += loss * weight
            self.weight_sum += weight

    def end_epoch(self):
        """Start the next epoch: one call, which Ctrl-C cannot part."""
        self.epoch += 1
        self.position, self.loss_sum, self.weight_sum = 0, 0, 0


cdef int refuse_undefined() except -1:
    raise FloatingPointError("loss: expected one that is defined, got nan; the rows of the batch, or what the network makes "
                             "of them, hold NaN or infinity; the step has not been taken")


def copy_arrays(list targets, list sources):
    """Copy arrays into others of their shapes and dtypes, all C-contiguous: one call, which Ctrl-C cannot part."""
    for target, source in zip(targets, sources, strict=True):
        if source.dtype != target.dtype or source.shape != target.shape or not source.flags.c_contiguous:
            raise ValueError(f"expected a contiguous {target.dtype} array of shape {target.shape}, got {source.dtype} {source.shape}")
        if not target.flags.writeable:
            raise ValueError(f"expected arrays that can be written, got a read-only one of shape {target.shape}")
    for target, source in zip(targets, sources):
        memcpy(data(target), data(source), target.nbytes)


def finish_step(Update update, list targets, list sources, list counts, Training training=None, double loss=0,
                bint in_epoch=False, bint moves=True):
    """End a step that Python has made: arrays go where they belong, and it counts; one call, which Ctrl-C cannot part.

    `counts` holds the number of each parameter that has moved, and its steps by now; `loss` is that of the batch that
    `training` has seen last, of the epoch under way or not. Unless the step `moves`, running averages stay as well.
    """
    copy_arrays(targets, sources)
    update.count_steps(counts)
    if training is not None:
        if moves:
            training.finish()
        training.count_batch(training.rows if in_epoch else 0, loss, training.batch_weight if in_epoch else 0)
