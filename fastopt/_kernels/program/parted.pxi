# A pass over a program in parts, for a caller who does something between them: ranks of an MPI job add the gradients of the
# last entries up while backward goes on with those before, or exchange values in the midst of forward and backward.

cdef struct PartCall:
    TrainCall* batch            # NULL in inference
    Run* run
    Py_ssize_t first, stop      # entries
    bint starts                 # the batch starts with this part
    bint penalties              # backward adds the gradients of penalties


cdef void forward_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef PartCall* c = <PartCall*>args
    cdef double loss
    if c.starts:
        start_batch(c.batch, &c.batch.run, dtype, thread, n_threads)
    forward(c.run, c.first, c.stop, dtype, thread, n_threads)
    if c.batch != NULL and c.stop == c.run.n_entries:
        loss = loss_of_batch(c.batch, &c.batch.run, dtype, thread, n_threads)
        if thread == 0:
            note_loss(c.batch, loss, dtype)


cdef void backward_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef PartCall* c = <PartCall*>args
    backward(c.run, c.first, c.stop, dtype, thread, n_threads)
    if c.penalties and c.run.n_penalties > 0:
        add_penalties(c.run, NULL, c.first, c.stop, dtype, thread, n_threads)


cdef void forward_sums_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Entry* e = (<PartCall*>args).run.entries + (<PartCall*>args).first
    do_pass(&e.kind.forward_sums, (<PartCall*>args).run, e, dtype, thread, n_threads)


cdef void backward_sums_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef Entry* e = (<PartCall*>args).run.entries + (<PartCall*>args).first
    do_pass(&e.kind.backward_sums, (<PartCall*>args).run, e, dtype, thread, n_threads)


cdef class Parts:
    """A pass over some samples, some entries at a time, perhaps of a range of the samples.

    An exchange between two parts reads and writes the values of an entry, and their gradients, where they lie.
    """
    cdef readonly Program program
    cdef Workspace workspace
    cdef TrainCall c
    cdef Run some                           # of a part that takes a range of the samples,
    cdef void** moved                       # with its values and their gradients
    cdef tuple batch                        # the arrays that c points to
    cdef Py_ssize_t n_threads
    cdef bint begun                         # forward has

    def __cinit__(self, of):
        self.program = of.program if isinstance(of, Training) else of

    def __dealloc__(self):
        free(self.moved)

    @property
    def rows(self):
        """Samples of the pass."""
        return self.c.run.samples

    def values(self, Py_ssize_t entry):
        """Views of what an entry reads first and of what it writes, of all samples."""
        cdef const Entry* e = &self.program.entries[entry]
        return self.view(e.sources[0].value, self.c.run.values), self.view(e.dst, self.c.run.values)

    def gradients(self, Py_ssize_t entry):
        """Likewise of their gradients; None for one that nobody asks for."""
        cdef const Entry* e = &self.program.entries[entry]
        return self.view(e.sources[0].value, self.c.run.dvalues), self.view(e.dst, self.c.run.dvalues)

    def input_gradient(self):
        """A view of the gradient of the input, of all samples, in the dtype of the program; None where nobody asks for it."""
        return self.view(0, self.c.run.dvalues)

    cdef object view(self, Py_ssize_t number, void** values):
        cdef const Shape* s = &self.program.shapes[number]
        cdef Run* run = &self.c.run
        cdef int typenum = run.x_typenum if s.owner == 0 and values == run.values else run.typenum
        cdef Py_ssize_t item = 4 if typenum == cnp.NPY_FLOAT32 else 8, line = (s.width + 2 * s.border_x) * s.ld, start
        cdef cnp.npy_intp* shape = [run.samples, s.height, s.width, s.channels]
        cdef cnp.npy_intp* strides = [elements_of(s) * item, line * item, s.ld * item, item]
        if values[s.owner] == NULL:
            return None
        start = s.first + s.border_y * line + s.border_x * s.ld
        a = cnp.PyArray_New(np.ndarray, 4, shape, typenum, strides, <char*>values[s.owner] + start * item, 0,
                            cnp.NPY_ARRAY_WRITEABLE, <object>NULL)
        cnp.set_array_base(a, self.workspace)
        return a if len(self.program.value_shapes[number]) == 3 else a[:, 0, 0]

    cdef int go(self, bint back, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t row, rows, TrainCall* batch,
                bint penalties=True) except -1:
        # forward or backward of entries first to stop, of `rows` samples from `row` on: of all by default
        cdef PartCall call = PartCall(batch, &self.c.run, first, stop, batch != NULL and not self.begun, penalties)
        cdef Py_ssize_t n_threads = self.n_threads, n = self.c.run.samples - row if rows is None else rows
        cdef int typenum = self.program.typenum
        if not (0 <= first <= stop <= self.program.n_entries and 0 <= row <= row + n <= self.c.run.samples):
            raise ValueError(f"expected entries and rows of the pass, got {first} to {stop} and {n} from {row}")
        if self.c.run.samples == 0:
            return 0
        self.begun = True
        if n == 0:              # the first part starts the batch all the same
            call.stop = first
        elif n < self.c.run.samples:
            self.move(row, n)
            call.run = &self.some
        with nogil:
            if back:
                run_typed(typenum, backward_job[float], backward_job[double], &call, n_threads)
            else:
                run_typed(typenum, forward_job[float], forward_job[double], &call, n_threads)
        return 0

    cdef int move(self, Py_ssize_t row, Py_ssize_t rows) except -1:
        # makes `some` the pass over a range of the samples
        cdef Py_ssize_t i, n = self.program.n_values, size
        if self.moved == NULL:
            self.moved = <void**>aligned_block(2 * n * sizeof(void*))
        self.some = self.c.run
        self.some.step += <uint64_t>row << 40           # rows from another on draw numbers of their own
        self.some.samples, self.some.values, self.some.dvalues = rows, self.moved, self.moved + n
        for i in range(n):
            size = elements_of(&self.program.shapes[i]) * (4 if self.c.run.typenum == cnp.NPY_FLOAT32 else 8)
            size = self.c.x_bytes if i == 0 else size
            self.moved[i] = <char*>self.c.run.values[i] + row * size if self.c.run.values[i] != NULL else NULL
            self.moved[n + i] = <char*>self.c.run.dvalues[i] + row * size if self.c.run.dvalues[i] != NULL else NULL
        return 0


cdef class PartedPass(Parts):
    """Inference in parts: `start`, then `forward` of some entries at a time."""

    def __cinit__(self, Program of):
        pass

    def start(self, x, out):
        """Take in samples, as `Program.rows` gives them, and the array that the output goes to, of its shape and dtype."""
        cdef Run* run = &self.c.run
        cdef Py_ssize_t n = x.shape[0]
        if self.workspace is None or self.workspace.capacity < n:
            self.workspace = Workspace(self.program, n, False)
        self.program.start(run, self.workspace, False)
        if not self.program.is_output(out, n):
            out = as_output("out", out, self.program.typenum, (n,) + self.program.output_shape)
        run.n = run.samples = n
        run.x_typenum, self.c.x_bytes = cnp.PyArray_TYPE(<cnp.ndarray>x), x.nbytes // max(n, 1)
        run.values[0], run.values[run.output] = data(x), data(out)
        self.batch = (x, out)
        self.n_threads = threads_for(self.program.work * n // self.program.n_entries)

    def forward(self, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t row=0, rows=None):
        """Forward of entries `first` to `stop`, which is not among them, of all samples or some of them."""
        self.go(False, first, stop, row, rows, NULL)


cdef class PartedStep(Parts):
    """The steps of a compiled training, in parts: `start`, or `pause` where there are no rows; `forward` of some entries at a
    time, `backward` likewise, from the last on; `update`, or `give_up`.

    Gradients are whole before the update, in ``training.gradient``. The caller holds the optimizer's update from the first
    part to the last (``with update:``), and gives data that `Training.check` has seen. Without an update there are gradients
    only. Where the training has no loss, the caller writes the gradient of the output before `backward`.
    """
    cdef readonly Training training
    cdef bint away                          # the parameters are at the interim point
    cdef dict sums                          # what ranks add up, by entry,
    cdef double** shared                    # and where it lies; NULL: nothing

    def __cinit__(self, Training training):
        self.training = training

    def __dealloc__(self):
        free(self.shared)

    cdef Plan* plan(self) except NULL:
        if self.training.update is None:
            raise ValueError("training: expected one with an optimizer's update, got one without")
        return &self.training.update.plan

    def share_sums(self):
        """From now on, leave it to the caller to add up over ranks what entries sum over rows.

        Returns arrays by the number of the entry, one line a sum, of all columns. `forward_sums` and `backward_sums`
        write those of the rows at hand there; forward, `backward` and `update` read those of all.
        """
        cdef Py_ssize_t i
        self.sums = {}
        free(self.shared)
        self.shared = <double**>aligned_block(self.program.n_entries * sizeof(double*))
        for i in range(self.program.n_entries):
            if self.program.entries[i].kind.forward_sums.f != NULL:
                self.sums[i] = np.zeros((N_SUMS, self.program.entries[i].n_in))
                self.shared[i] = <double*>data(self.sums[i])
        return dict(self.sums)

    def forward_sums(self, Py_ssize_t entry):
        """Find what an entry sums over rows before its forward; returns the lines with it."""
        lines = self.sums[entry][:N_FORWARD_SUMS]
        self.sum_up(False, entry, lines)
        return lines

    def backward_sums(self, Py_ssize_t entry):
        """Likewise before its backward."""
        lines = self.sums[entry][N_FORWARD_SUMS:]
        self.sum_up(True, entry, lines)
        return lines

    cdef int sum_up(self, bint back, Py_ssize_t entry, object lines) except -1:
        cdef PartCall call = PartCall(NULL, &self.c.run, entry, entry + 1, False, False)
        cdef Py_ssize_t n_threads = self.n_threads
        cdef int typenum = self.program.typenum
        if self.c.run.samples == 0:
            lines[:] = 0
            return 0
        with nogil:
            if back:
                run_typed(typenum, backward_sums_job[float], backward_sums_job[double], &call, n_threads)
            else:
                run_typed(typenum, forward_sums_job[float], forward_sums_job[double], &call, n_threads)
        return 0

    def start(self, x, targets, weights, Py_ssize_t rows, uint64_t step, order=None, Py_ssize_t position=0):
        """Take in `rows` samples: all, or those in `order` from `position` on; random numbers are those of `step`."""
        cdef TrainCall* c = &self.c
        self.training.fill(c, x, targets, weights, rows)
        self.workspace, self.batch = self.training.workspace, (x, targets, weights, order)
        c.position, c.run.n, c.run.samples, c.run.step, c.run.update = position, rows, rows, step, GRADIENTS_FIRST
        c.run.sums, self.begun = self.shared, False
        c.run.values[0] = c.x
        if order is not None:
            c.order, c.run.values[0] = <int64_t*>data(order), c.batch_x
        self.n_threads = self.training.make_ready(c, rows)
        if c.run.plan != NULL:
            update_begin(c.run.plan)

    def pause(self):
        """In place of `start` where there are no rows: gradients of 0, and parts that do nothing."""
        cdef TrainCall* c = &self.c
        self.workspace = self.training.workspace
        self.program.start(&c.run, self.workspace, True)
        c.run.dparams, c.run.plan, c.run.samples = self.training.dparams, self.plan(), 0
        c.run.sums = self.shared
        c.run.values[0] = c.batch_x = self.workspace.batch_x
        c.batch_loss = c.batch_weight = 0
        self.n_threads = self.training.make_ready(c, 0)
        self.training.gradient[:] = 0
        update_begin(c.run.plan)

    def forward(self, Py_ssize_t first=0, stop=None, Py_ssize_t row=0, rows=None):
        """Forward of entries `first` to `stop`, which is not among them: of all, or of `rows` samples from `row` on.

        The first entry takes all samples in, the last finds the loss of all. Returns, then, the mean loss, and the sum of
        weights that it was divided by.
        """
        if first == 0 and self.c.run.samples > 0 and self.c.run.plan != NULL:
            self.away = self.c.run.plan.interim
        self.go(False, first, self.program.n_entries if stop is None else stop, row, rows, &self.c)
        return self.c.batch_loss, self.c.batch_weight

    def backward(self, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t row=0, rows=None, bint penalties=True):
        """Gradients of the weights of entries `first` to `stop`, which is not among them, by all samples or some of them.

        Without `penalties`, these have no part in them.
        """
        self.go(True, first, stop, row, rows, NULL, penalties)

    @property
    def looks(self):
        """Whether the optimizer looks at all gradients before it steps: at their norm, or for what is not finite."""
        cdef Plan* plan = self.plan()
        return plan.clips_norm or plan.check_finite != FINITE_ANY

    def squares(self, gradients):
        """The sum of squares of the gradients of these numbers."""
        cdef double total = 0
        cdef Py_ssize_t i, n
        for k in gradients:
            grad = self.training.grads[k]
            n = grad.size
            for i in range(0, n, NORM_BLOCK):
                if self.program.typenum == cnp.NPY_FLOAT32:
                    total += squares(<float*>data(grad) + i, min(n - i, <Py_ssize_t>NORM_BLOCK))
                else:
                    total += squares(<double*>data(grad) + i, min(n - i, <Py_ssize_t>NORM_BLOCK))
        return total

    def update(self, double share, squares=None, bint bad=False):
        """The optimizer's step by `share` of the gradients, and what follows it; returns whether the batch counts.

        It does not count where a gradient was not finite and the optimizer leaves such steps out. Where ranks hold parts of
        the parameters, they say what the optimizer looks for: the `squares` of all gradients, and whether some rank has a
        `bad` one.
        """
        cdef Run* run = &self.c.run
        cdef Plan* plan = self.plan()
        cdef Py_ssize_t n_threads = self.n_threads
        cdef int typenum = self.program.typenum
        self.give_up()
        plan.shared, plan.squares, plan.bad = squares is not None, squares or 0.0, bad
        with nogil:
            plan.share = plan.scale = share
            if not plan.checked:
                update_prepare(plan)
            team_run(update_job, plan, n_threads)
            plan.share, plan.shared, plan.bad = 1, False, False
            if plan.passed and run.has_max_norm:
                run_typed(typenum, max_norm_job[float], max_norm_job[double], run, n_threads)
            if not plan.left_out and (run.samples > 0 or run.sums != NULL):
                run_typed(typenum, after_batch_job[float], after_batch_job[double], run, 1)
        self.training.update.report_refusal()
        return not plan.left_out

    def finish(self, Py_ssize_t rows, double loss, double weight):
        """`update` by whole gradients, and the count of the batch: one call, which Ctrl-C cannot part.

        Of the epoch under way are the rows, and the loss with its weight where the batch counts; 0 outside of one.
        """
        counts = self.update(1.0)
        self.training.count_batch(rows, loss, weight if counts else 0)

    def give_up(self):
        """Leave the step where no update is to follow: the parameters come back from an interim point."""
        cdef Py_ssize_t n_threads = self.n_threads
        if self.away:
            self.away = False
            with nogil:
                team_run(restore_job, self.c.run.plan, n_threads)

    def require_defined(self, losses):
        """Raise FloatingPointError if a loss is NaN, unless the optimizer looks at the gradients itself."""
        if self.plan().check_finite == FINITE_ANY and any(loss != loss for loss in losses):
            refuse_undefined()

    def count(self, losses, weights):
        """Add batches to the losses of the epoch under way, in their order, as `Training.run` does."""
        cdef double loss, weight
        for loss, weight in zip(losses, weights):
            self.training.loss_sum += loss * weight
            self.training.weight_sum += weight
