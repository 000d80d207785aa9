# The memory of a program for a batch: values, their gradients, what is saved for backward, scratch. rooms.pxi says where in
# their blocks values lie.

cdef class Workspace:
    """The values of a program for up to `capacity` samples; for training also gradients, and room for a batch.

    With `tangents` it holds tangents of the values and of their gradients.
    """
    cdef void* block
    cdef void* threads                      # scratch of the threads, thread_bytes each
    cdef Py_ssize_t n_threads, thread_bytes
    cdef void** values
    cdef void** dvalues
    cdef void** saved
    cdef void** z
    cdef void* scratch
    cdef double* row_loss
    cdef double* row_penalty
    cdef char *batch_x
    cdef char *batch_targets
    cdef char *batch_weights
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t saved_bytes    # for backward, besides values

    def __cinit__(self, Program program, Py_ssize_t capacity, bint training, bint tangents=False):
        cdef Py_ssize_t i, n = program.n_values, item = program.item
        cdef Py_ssize_t samples = min(max(capacity, 1), 1 << 56)
        cdef Py_ssize_t rows = round_up(samples * program.positions, 8)             # of the output; whole cache lines of float64
        cdef const Room* room = &program.training if training else &program.inference
        cdef Py_ssize_t values, gradients
        cdef Py_ssize_t target = program.positions * max(8, program.shapes[n - 1].channels * item)
        cdef Py_ssize_t x_bytes = elements_of(&program.shapes[0]) * (8 if program.reads_either else item)
        cdef Py_ssize_t tables = round_up(2 * (n + program.n_entries) * <Py_ssize_t>sizeof(void*), 64), scratch, batch = 0
        cdef Entry* e
        cdef char* p
        if <double>samples * (program.elements + 16.0) * 128 > 2.0**62:     # sizes below stay whole numbers of 63 bits
            raise MemoryError(f"no memory for a batch of {capacity} rows")
        values = samples * room.elements * item     # how much of everything
        gradients = samples * program.gradients.elements * item if training else 0
        for i in range(program.n_entries if training else 0):
            e = &program.entries[i]
            self.saved_bytes += saved_bytes(e, samples, item) + z_bytes(e, samples, item)
            if e.kind.thread_scratch != NULL:
                self.thread_bytes = max(self.thread_bytes, round_up(e.kind.thread_scratch(e) * item, 64))
        scratch = program.scratch(samples, training)
        if training and not tangents:       # a batch that is gathered, its weights, its losses
            batch = rows * (8 + 8) + round_up(samples * x_bytes, 64) + samples * target + 8 * program.n_penalties
        self.block = aligned_block(tables + scratch + values + gradients + self.saved_bytes + batch)
        self.values, self.dvalues = <void**>self.block, <void**>self.block + n      # where everything lies: tables of pointers,
        self.saved, self.z = self.dvalues + n, self.dvalues + n + program.n_entries
        self.scratch = <char*>self.block + tables       # scratch, values, their gradients,
        p = <char*>self.scratch + scratch
        for i in range(n):
            if room.first[i] >= 0:
                self.values[i] = p + samples * room.first[i] * item
            if training and program.gradients.first[i] >= 0:
                self.dvalues[i] = p + values + samples * program.gradients.first[i] * item
        p += values + gradients
        for i in range(program.n_entries if training else 0):      # what is saved for backward,
            e = &program.entries[i]
            if saved_bytes(e, samples, item) > 0:
                self.saved[i] = p
                p += saved_bytes(e, samples, item)
            if z_bytes(e, samples, item) > 0:
                self.z[i] = p
                p += z_bytes(e, samples, item)
        if training and not tangents:       # the batch
            self.row_loss, self.batch_weights = <double*>p, p + 8 * rows
            self.batch_x = p + 16 * rows
            self.batch_targets = self.batch_x + round_up(samples * x_bytes, 64)
            self.row_penalty = <double*>(self.batch_targets + samples * target)
        self.capacity = samples

    def __dealloc__(self):
        free(self.block)
        free(self.threads)

    cdef int reserve(self, Py_ssize_t n_threads) except -1:
        # makes scratch for so many threads
        cdef void* threads
        if self.thread_bytes > 0 and n_threads > self.n_threads:
            threads = aligned_block(n_threads * self.thread_bytes)
            free(self.threads)
            self.threads, self.n_threads = threads, n_threads
        return 0


cdef Py_ssize_t saved_bytes(const Entry* e, Py_ssize_t samples, Py_ssize_t item) noexcept:
    return round_up(e.kind.saved(e, samples * e.positions) * item, 64) if e.kind.saved != NULL else 0


cdef Py_ssize_t z_bytes(const Entry* e, Py_ssize_t samples, Py_ssize_t item) noexcept:
    return round_up(samples * e.out_positions * e.n_out * item, 64) if keeps_preactivation(e) else 0
