# A training step in parts, for a caller who does something between them: ranks of an MPI job add the gradients of the last
# entries up while backward goes on with those before.

cdef void forward_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef TrainCall* c = <TrainCall*>args
    cdef double loss = forward_batch(c, &c.run, dtype, thread, n_threads)
    if thread == 0:
        note_loss(c, loss, dtype)


cdef struct BackwardCall:
    Run* run
    Py_ssize_t first, stop      # entries


cdef void backward_job(void* args, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef BackwardCall* c = <BackwardCall*>args
    backward(c.run, c.first, c.stop, dtype, thread, n_threads)
    if c.run.n_penalties > 0:
        add_penalties(c.run, NULL, c.first, c.stop, dtype, thread, n_threads)


cdef class PartedStep:
    """The steps of a compiled training, in parts: `forward`, or `pause` where there are no rows; `backward` of some entries at
    a time, from the last on; `update`, or `give_up`.

    Gradients are whole before the update, in ``training.gradient``. The caller holds the optimizer's update from the first
    part to the last (``with update:``), and gives data that `Training.check` has seen.
    """
    cdef readonly Training training
    cdef TrainCall c
    cdef tuple batch                        # the arrays that c points to
    cdef Py_ssize_t n_threads
    cdef bint away                          # the parameters are at the interim point

    def __cinit__(self, Training training):
        if training.update is None:
            raise ValueError("training: expected one with an optimizer's update, got one without")
        self.training = training

    def forward(self, x, targets, weights, Py_ssize_t rows, uint64_t step, order=None, Py_ssize_t position=0):
        """Forward and loss of `rows` samples: of all, or in `order` from `position` on; random numbers are those of `step`.

        Returns the mean loss, and the sum of weights that it was divided by.
        """
        cdef TrainCall* c = &self.c
        cdef Py_ssize_t n_threads
        self.training.fill(c, x, targets, weights, rows)
        self.batch = (x, targets, weights, order)
        c.position, c.run.n, c.run.samples, c.run.step, c.run.update = position, rows, rows, step, GRADIENTS_FIRST
        c.run.values[0] = c.x
        if order is not None:
            c.order, c.run.values[0] = <int64_t*>data(order), c.batch_x
        n_threads = self.n_threads = self.training.make_ready(c, rows)
        update_begin(c.run.plan)
        self.away = c.run.plan.interim
        with nogil:
            run_typed(self.training.program.typenum, forward_job[float], forward_job[double], c, n_threads)
        return c.batch_loss, c.batch_weight

    def pause(self):
        """In place of forward and backward where there are no rows: gradients of 0."""
        cdef TrainCall* c = &self.c
        self.training.program.start(&c.run, self.training.workspace, True)
        c.run.dparams, c.run.plan, c.run.samples = self.training.dparams, &self.training.update.plan, 0
        self.n_threads = self.training.make_ready(c, 0)
        self.training.gradient[:] = 0
        update_begin(c.run.plan)

    def backward(self, Py_ssize_t first, Py_ssize_t stop):
        """Gradients of the weights of entries `first` to `stop`, which is not among them."""
        cdef BackwardCall call = BackwardCall(&self.c.run, first, stop)
        cdef Py_ssize_t n_threads = self.n_threads
        with nogil:
            run_typed(self.training.program.typenum, backward_job[float], backward_job[double], &call, n_threads)

    def update(self, double share):
        """The optimizer's step by `share` of the gradients, and what follows it; returns whether the batch counts.

        It does not count where a gradient was not finite and the optimizer leaves such steps out.
        """
        cdef Run* run = &self.c.run
        cdef Plan* plan = run.plan
        cdef Py_ssize_t n_threads = self.n_threads
        cdef int typenum = self.training.program.typenum
        self.give_up()
        with nogil:
            plan.share = plan.scale = share
            if not plan.checked:
                update_prepare(plan)
            team_run(update_job, plan, n_threads)
            plan.share = 1
            if plan.passed and run.has_max_norm:
                run_typed(typenum, max_norm_job[float], max_norm_job[double], run, n_threads)
            if not plan.left_out and run.samples > 0:
                run_typed(typenum, after_batch_job[float], after_batch_job[double], run, 1)
        self.training.update.report_refusal()
        return not plan.left_out

    def give_up(self):
        """Leave the step where no update is to follow: the parameters come back from an interim point."""
        cdef Py_ssize_t n_threads = self.n_threads
        if self.away:
            self.away = False
            with nogil:
                team_run(restore_job, self.c.run.plan, n_threads)

    def require_defined(self, losses):
        """Raise FloatingPointError if a loss is NaN, unless the optimizer looks at the gradients itself."""
        if self.training.update.plan.check_finite == FINITE_ANY and any(loss != loss for loss in losses):
            refuse_undefined()

    def count(self, losses, weights):
        """Add batches to the losses of the epoch under way, in their order, as `Training.run` does."""
        cdef double loss, weight
        for loss, weight in zip(losses, weights):
            self.training.loss_sum += loss * weight
            self.training.weight_sum += weight
