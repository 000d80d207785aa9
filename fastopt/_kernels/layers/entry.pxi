# The contract between a layer and the program: an entry, and its kind.
#
# A program is a list of entries over numbered values. An entry reads the values of its sources and writes dst. Its kind, a
# record of functions at the end of the kind's own file, says how; the program calls them and knows no kind. Every thread
# of a call runs every function and computes its chunk:
#   forward     computes dst from all of the sources. A barrier follows
#   backward    finds all of the gradient of dst. It overwrites the gradients of the weights (`gradient` is NULL where one is
#               not asked for), and of the sources that are wanted; to the gradient of a source that a later entry has
#               written already, it adds (accumulate). A barrier follows
#   tangent     computes the directional derivative of forward along `directions`, one a weight: the tangent of dst from
#               those of the sources (a source that is not wanted has none; the weights' part is written all the same)
#   tangent_backward    computes backward and its directional derivative at once. Nobody asks for the gradients of weights
#               then; dparams receive their tangents
#   forward_sums, backward_sums     of a kind whose forward and backward need sums over all rows: find those of the rows at
#               hand, which the caller replaces by those of all ranks before forward or backward goes on from them
#   fused_update        is backward in which the weights take their steps, and no gradient of them is written
# A pass has no state of its own. An entry asks for the memory that its backward needs beside values: `saved` elements, and
# its preactivation where the derivative of the activation is not known from the output. Random numbers are keyed by (seed,
# step, element), and drawn again in backward. A leading t names the tangent of what follows it.

cdef struct Run                 # one pass of a program over some rows
cdef struct Entry

cdef class Arrays:
    """What a program points to: arrays of layers, which it holds while it lives, and blocks of its own."""
    cdef int typenum
    cdef bint fixed             # the arrays are only read
    cdef const Shape* shapes    # of the values
    cdef list held, written     # written: (name, array) of those that training changes besides the weights
    cdef void** blocks
    cdef Py_ssize_t n_blocks
    cdef str entry              # named in errors

    def __cinit__(self, int typenum, bint fixed):
        self.typenum, self.fixed, self.held, self.written, self.entry = typenum, fixed, [], [], ""

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_blocks):
            free(self.blocks[i])
        free(self.blocks)

    cdef void* block(self, size_t size) except NULL:
        self.blocks = <void**>grown(self.blocks, self.n_blocks * sizeof(void*), sizeof(void*))
        self.blocks[self.n_blocks] = aligned_block(size)
        self.n_blocks += 1
        return self.blocks[self.n_blocks - 1]

    cdef void* hold(self, str name, object array, int typenum, tuple shape) except? NULL:
        # returns a pointer to an array of the layer, which is held from now on; NULL for None
        if array is None:
            return NULL
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{self.entry} {name}: expected a NumPy array, got {type(array).__name__}")
        if not (is_plain(array, typenum, <int>len(shape)) and fits(array, shape)):
            dtype = cnp.PyArray_DescrFromType(typenum)
            kind = TypeError if array.dtype != dtype else ValueError
            raise kind(f"{self.entry} {name}: expected a C-contiguous {dtype} array of shape {shape_text(shape)}, "
                       f"got {array.dtype} of shape {array.shape}")
        if not (self.fixed or cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array)):
            raise ValueError(f"{self.entry} {name}: expected a writable array, got a read-only one; pass a copy")
        self.held.append(array)
        return data(array)

    cdef void* hold_weight(self, Entry* e, str name, list weights, tuple shape) except NULL:
        # likewise, of the next of the trained arrays, which becomes the next of e.weights
        cdef Weight* w = &e.weights[e.n_weights]
        if e.n_weights == min(len(weights), MAX_WEIGHTS):
            raise ValueError(f"{self.entry} {name}: expected an array among the weights, got {len(weights)} of them")
        w.at = self.hold(name, weights[e.n_weights], self.typenum, shape)
        if w.at == NULL:
            raise ValueError(f"{self.entry} {name}: expected an array, got None")
        w.rows, w.columns = shape[0], math.prod(shape[1:])
        e.n_weights += 1
        return w.at

    cdef void* hold_packed(self, Entry* e, list weights, tuple shape, Py_ssize_t groups) except NULL:
        # likewise of a weight that comes packed
        cdef PackedWeight packed = weights[0]
        cdef Weight* w = &e.weights[e.n_weights]
        if packed.typenum != self.typenum or packed.shape != shape or packed.groups != groups:
            raise ValueError(f"{self.entry} weight: expected a packed {cnp.PyArray_DescrFromType(self.typenum)} array of shape "
                             f"{shape_text(shape)} in {groups} groups, got {packed!r}")
        self.held.append(packed)
        w.at, w.rows, w.columns = packed.start, shape[0], math.prod(shape[1:])
        e.n_weights += 1
        return packed.start

    cdef void* hold_written(self, str name, object array, tuple shape) except NULL:
        # likewise of an array that training changes though it has no gradient
        if array is None:
            raise ValueError(f"{self.entry} {name}: expected an array, got None")
        self.written.append((name, array))
        return self.hold(name, array, self.typenum, shape)


ctypedef void (*pass_f)(Run* r, Entry* e, float* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil
ctypedef void (*pass_d)(Run* r, Entry* e, double* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil

cdef struct Pass:               # one function a dtype
    pass_f f
    pass_d d

cdef struct Kind:
    const char* name
    Pass forward, backward, tangent, tangent_backward
    Pass fused_update           # of entries with e.fuses; all other gradients are written first
    Pass forward_sums, backward_sums    # what each of them first sums over rows, into `sums`, where ranks add it up; or NULL
    Pass after_batch            # updates running averages after a batch that counted, on one thread; or NULL
    int (*place)(Entry* e, dict own, list weights, Arrays arrays) except -1  # takes its parts of `own`, sets e.own, e.weights; or NULL
    bint (*fits)(const Entry* e, const Shape* shapes) noexcept      # whether the shapes of values fit; NULL: place says why not
    Py_ssize_t (*work)(const Entry* e) noexcept nogil   # multiply-adds of a row of dst; NULL: 4 an element of the first source
    Py_ssize_t (*scratch)(const Entry* e, Py_ssize_t rows, bint training) noexcept nogil    # elements, of the team; or NULL
    Py_ssize_t (*thread_scratch)(const Entry* e) noexcept nogil                 # elements, of a thread; or NULL
    Py_ssize_t (*saved)(const Entry* e, Py_ssize_t rows) noexcept nogil         # elements, for backward; or NULL
    # what row i adds, from x and dz, to the squared norm of the weights' gradients, and whether that pays; with fused_update
    double (*row_norm)(const Run* r, const Entry* e, Py_ssize_t i) noexcept nogil
    bint (*row_norm_pays)(const Run* r, const Entry* e) noexcept nogil
    bint (*by_columns)(const Run* r, const Entry* e) noexcept nogil     # whether a thread's chunk in forward is columns; or NULL
    bint reads_own_columns      # forward reads the columns that its thread has written, and only after a barrier the others
    bint reads_either           # the input, as its first source, may be float32 or float64
    bint adds_sources           # it reads any number of them; else one
    bint activates              # an activation follows
    Py_ssize_t least_rows       # to train on

cdef struct Source:
    Py_ssize_t value
    bint wanted                 # its gradient is wanted, and it has a tangent
    bint accumulate             # backward adds to its gradient instead of overwriting it

cdef struct Weight:             # a trained array, as a matrix
    void *at
    Py_ssize_t rows, columns
    Py_ssize_t grad             # number of its gradient
    Penalty penalty
    Py_ssize_t first_penalty    # its rows' numbers in row_penalty

cdef enum:
    MAX_WEIGHTS = 2             # of an entry
    N_SUMS = 6                  # of a column, of entries whose kind has forward_sums, of which
    N_FORWARD_SUMS = 4          # are those of forward

cdef struct Entry:
    const Kind* kind
    Py_ssize_t number, n_sources, dst
    Source* sources
    int n_weights
    Weight weights[MAX_WEIGHTS]
    Py_ssize_t n_in, n_out      # channels of the first source and of dst
    Py_ssize_t positions, out_positions     # of the first source and of dst: rows of a sample
    int activation
    bint fuses                  # its weights can take their steps in backward, by the kind's fused_update
    bint frozen                 # its weights stay as they are, so nobody asks for their gradients
    bint backs                  # backward finds something: the gradient of a weight, or of a source
    bint clears                 # inference clears the border of dst, in memory that it shares with other values
    void* own                   # the kind's struct

cdef enum:
    GRADIENTS_FIRST             # then an update of everything
    UPDATE_FUSED                # weights take their steps in backward
    UPDATE_CLIPPED              # likewise, after a backward from which only the norm of all gradients is found

cdef struct Run:
    int typenum, x_typenum      # NumPy's numbers of the dtype of everything, and of value 0
    bint training
    Py_ssize_t n_entries, samples
    Py_ssize_t n                # samples of the whole call or batch: they choose a kernel, for `samples` depends on the team
    Entry* entries
    Shape* shapes               # of the values
    Py_ssize_t output           # number of the last value
    void** values               # by number of the value that owns the memory
    void** dvalues              # their gradients
    void** saved                # by entry: what its kind saves for backward, and in z the preactivations
    void** z
    void** dparams              # by number of the gradient
    void** tangents             # of the values, of dvalues, saved and z; NULL where no directional derivative is asked for
    void** dtangents
    void** tsaved
    void** tz
    void** directions           # by number of the gradient: what the weights move along
    void* scratch               # of one entry at a time
    void* tscratch              # likewise, for operands that are tangents
    char* thread_scratch        # of thread 0, thread_bytes from one thread to the next
    Py_ssize_t thread_bytes
    double** sums               # by entry: sums over the rows of all ranks, (N_SUMS, n_in); NULL: over those of this run
    void* dy                    # the gradient of dst where backward must not overwrite it; NULL: in dvalues
    Plan* plan                  # NULL: gradients only
    double* row_penalty         # (n_penalties,) of the rows of weights that are penalized
    Py_ssize_t n_penalties
    bint has_max_norm           # some rows of weights have a largest norm
    uint64_t step               # number of the batch, from 0: what random numbers are keyed by
    bint may_fuse               # weights may take their steps in backward, as far as the optimizer is concerned
    int update                  # how weights take their steps in this batch


cdef inline void do_pass(const Pass* p, Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    if floating is float:
        p.f(r, e, dtype, thread, n_threads)
    else:
        p.d(r, e, dtype, thread, n_threads)


# --- what a pass asks its run for

cdef inline Py_ssize_t rows_in(const Run* r, const Entry* e) noexcept nogil:
    return r.samples * e.positions


cdef inline Rows value_rows(const Run* r, Py_ssize_t value, void** values, floating* dtype) noexcept nogil:
    # the rows of a value in `values`: those of a Run, its dvalues, tangents or dtangents
    return rows_of(&r.shapes[value], values[r.shapes[value].owner], dtype)


cdef inline Rows source_rows(const Run* r, const Entry* e, void** values, floating* dtype) noexcept nogil:
    return value_rows(r, e.sources[0].value, values, dtype)


cdef inline Rows dst_rows(const Run* r, const Entry* e, void** values, floating* dtype) noexcept nogil:
    return value_rows(r, e.dst, values, dtype)


cdef inline Rows preactivations(const Run* r, const Entry* e, void** z, void** values, floating* dtype) noexcept nogil:
    # z where it is kept, else y: where forward writes z before the activation, and from which activation_derivative is computed
    return matrix(z[e.number], e.n_out) if z[e.number] != NULL else dst_rows(r, e, values, dtype)


cdef inline floating* gradient(const Run* r, const Entry* e, int weight, floating* dtype) noexcept nogil:
    # where the gradient of a weight goes; NULL where there is no such weight, or its gradient is not wanted
    if weight >= e.n_weights or r.update == UPDATE_CLIPPED or (e.frozen and r.directions == NULL):
        return NULL
    return <floating*>r.dparams[e.weights[weight].grad]


cdef inline floating* direction(const Run* r, const Entry* e, int weight, floating* dtype) noexcept nogil:
    return <floating*>r.directions[e.weights[weight].grad] if weight < e.n_weights else NULL


cdef inline bint keeps_preactivation(const Entry* e) noexcept nogil:
    # whether the derivative of the activation is not known from the output
    return e.activation in (GELU, SILU)


cdef bint same_shape(const Entry* e, const Shape* shapes) noexcept:
    # fits of a kind all of whose sources have the shape of dst
    cdef Py_ssize_t i
    for i in range(e.n_sources):
        if not same_positions(&shapes[e.sources[i].value], &shapes[e.dst]) or shapes[e.sources[i].value].channels != e.n_out:
            return False
    return True


cdef void backward_twice(Run* r, Entry* e, floating* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # tangent_backward of a kind whose backward is linear, and the same however x moves: it runs on gradients, then on tangents
    cdef Run tangent = r[0]
    tangent.dvalues = r.dtangents
    do_pass(&e.kind.backward, r, e, dtype, thread, n_threads)
    do_pass(&e.kind.backward, &tangent, e, dtype, thread, n_threads)


# --- the kinds

cdef enum:
    MAX_KINDS = 64
cdef Kind* KINDS[MAX_KINDS]
cdef int n_kinds = 0


cdef int register_kind(Kind* kind, const char* name) except -1:
    # the last line of every kind's file
    global n_kinds
    if n_kinds == MAX_KINDS:
        raise MemoryError("MAX_KINDS: expected fewer kinds")
    kind.name, KINDS[n_kinds] = name, kind
    n_kinds += 1
    return 0


cdef Kind* kind_named(str name) except NULL:
    cdef int i
    names = [(<bytes>KINDS[i].name).decode() for i in range(n_kinds)]
    if name not in names:
        raise ValueError(f"kind: expected one of {', '.join(names)}, got {name!r}")
    return KINDS[<int>names.index(name)]
