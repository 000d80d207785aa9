# Values as rows of channels: where a row lies, and how many rows follow at one distance.
#
# - A sample is height x width positions of `channels` numbers, channels last; a vector is one position. A batch is
#   n * height * width rows, so a kernel that looks at no neighbors runs on images as it does on matrices.
# - An image may lie within a border of zeros, which is left for a layer that reads beyond its edge. Rows skip the border:
#   it is neither written nor counted.
# - A value may be a slice of the channels of another, or another shape of it: several entries then write one array.
# - A run is rows at one distance, `ld`: all rows of a matrix, one line of an image within a border. Kernels walk rows run by run.

cdef struct Shape:              # of a value
    Py_ssize_t height, width, channels
    Py_ssize_t border_y, border_x       # positions of zeros above and below, left and right
    Py_ssize_t ld               # elements from one position to the next
    Py_ssize_t owner, first     # the value in whose memory it lies, mostly itself, and the first of its elements there

cdef struct Rows:               # of a batch, from row 0 on
    void *start
    Py_ssize_t ld               # elements from one row of a run to the next
    Py_ssize_t length           # rows of a run
    Py_ssize_t runs             # of an image
    Py_ssize_t run_step, image_step     # elements from one run, or image, to the next

cdef struct Image:              # the pixels of a batch of images
    void *start                 # pixel (0, 0) of the first one
    Py_ssize_t pixel, row, image        # elements from one to the next


cdef inline Py_ssize_t positions_of(const Shape* s) noexcept nogil:
    return s.height * s.width


cdef inline Py_ssize_t elements_of(const Shape* s) noexcept nogil:
    # elements that a sample takes in memory, its border included
    return (s.height + 2 * s.border_y) * (s.width + 2 * s.border_x) * s.ld


cdef inline bint same_positions(const Shape* a, const Shape* b) noexcept nogil:
    return a.height == b.height and a.width == b.width


cdef inline Rows rows_of(const Shape* s, void* base, floating* dtype) noexcept nogil:
    # the rows of a value whose memory starts at `base`
    cdef Rows v
    cdef Py_ssize_t wide = s.width + 2 * s.border_x
    v.ld, v.length, v.runs, v.run_step, v.image_step = s.ld, PY_SSIZE_T_MAX, 1, 0, 0
    v.start = <floating*>base + s.first
    if s.border_x > 0 or s.border_y > 0:
        v.start = <floating*>base + s.first + (s.border_y * wide + s.border_x) * s.ld
        v.length, v.runs = s.width * s.height, 1
        if s.border_x > 0:
            v.length, v.runs = s.width, s.height
        v.run_step, v.image_step = wide * s.ld, elements_of(s)
    return v


cdef inline Image image_of(const Shape* s, void* base, floating* dtype) noexcept nogil:
    # the pixels of a value whose memory starts at `base`
    cdef Py_ssize_t wide = (s.width + 2 * s.border_x) * s.ld
    return Image(<floating*>base + s.first + s.border_y * wide + s.border_x * s.ld, s.ld, wide, elements_of(s))


cdef inline Rows matrix(const void* start, Py_ssize_t ld) noexcept nogil:
    # one run of any length, its rows `ld` elements apart
    cdef Rows v
    v.start, v.ld, v.length, v.runs, v.run_step, v.image_step = <void*>start, ld, PY_SSIZE_T_MAX, 1, 0, 0
    return v


cdef inline floating* row(const Rows* v, Py_ssize_t i, floating* dtype) noexcept nogil:
    cdef Py_ssize_t run
    if i < v.length:
        return <floating*>v.start + i * v.ld
    run = i // v.length
    return <floating*>v.start + run // v.runs * v.image_step + run % v.runs * v.run_step + i % v.length * v.ld


cdef inline Py_ssize_t run_rows(const Rows* v, Py_ssize_t i, Py_ssize_t stop) noexcept nogil:
    # how many rows of [i, stop) lie in the run of row i
    return min(stop - i, v.length - (i if i < v.length else i % v.length))


cdef inline Py_ssize_t common_rows(const Rows* a, const Rows* b, Py_ssize_t i, Py_ssize_t stop) noexcept nogil:
    # how many rows of [i, stop) lie in the run of row i, in both
    return run_rows(a, i, run_rows(b, i, stop) + i)


cdef inline void row_offsets(const Rows* v, Py_ssize_t first, Py_ssize_t n, Py_ssize_t* offsets, floating* dtype) noexcept nogil:
    # where n rows from `first` on start, in elements behind row 0
    cdef Py_ssize_t i = 0, stop, at
    while i < n:                # run by run
        at = row(v, first + i, dtype) - <floating*>v.start
        stop = i + run_rows(v, first + i, first + n)
        while i < stop:
            offsets[i] = at
            at += v.ld
            i += 1


cdef inline bint is_flat(const Rows* v, Py_ssize_t c) noexcept nogil:
    # whether rows of c elements are one array without gaps
    return v.ld == c and v.length == PY_SSIZE_T_MAX


cdef inline floating* element(const Rows* v, Py_ssize_t i, Py_ssize_t c, floating* dtype) noexcept nogil:
    # where element i of rows of c lies; elements are counted without gaps
    return <floating*>v.start + i if is_flat(v, c) else row(v, i // c, dtype) + i % c


cdef inline Py_ssize_t run_elements(const Rows* v, Py_ssize_t i, Py_ssize_t stop, Py_ssize_t c) noexcept nogil:
    # how many elements of [i, stop), counted without gaps, lie side by side
    if is_flat(v, c):
        return stop - i
    return min(stop - i, (run_rows(v, i // c, PY_SSIZE_T_MAX) if v.ld == c else 1) * c - i % c)


cdef inline const floating* gathered(const Rows* v, floating* room, Py_ssize_t c, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    # rows of c elements as a matrix without gaps: themselves, or a copy in `room`, of which a thread writes rows r0 to r1
    cdef Py_ssize_t i
    if is_flat(v, c):
        return <floating*>v.start
    for i in range(r0, r1):
        memcpy(room + i * c, row(v, i, room), c * <Py_ssize_t>sizeof(floating))
    return room


cdef void clear_border(const Shape* s, void* base, Py_ssize_t samples, floating* dtype, Py_ssize_t thread,
                       Py_ssize_t n_threads) noexcept nogil:
    # zeros in the border of a value whose memory starts at `base`, the thread's lines of pixels
    cdef Py_ssize_t height = s.height + 2 * s.border_y, side = s.border_x * s.ld, inside = s.width * s.ld, i, y
    cdef floating* line
    for i in range(chunk_start(samples * height, 1, thread, n_threads), chunk_start(samples * height, 1, thread + 1, n_threads)):
        line, y = <floating*>base + i * (inside + 2 * side), i % height
        if y < s.border_y or y >= s.border_y + s.height:
            memset(line, 0, (inside + 2 * side) * <Py_ssize_t>sizeof(floating))
        else:
            memset(line, 0, side * <Py_ssize_t>sizeof(floating))
            memset(line + side + inside, 0, side * <Py_ssize_t>sizeof(floating))


# --- activations of rows, in a thread's block of rows r0 to r1 and columns c0 to c1; softmax takes whole rows

cdef void activate_rows(int activation, const Rows* z, const Rows* y, Py_ssize_t c, Block b, floating* dtype) noexcept nogil:
    # y (n, c) = phi(z)
    cdef Py_ssize_t i = b.r0, n
    cdef bint whole = z.ld == c and y.ld == c and b.c0 == 0 and b.c1 == c
    while i < b.r1:
        n = common_rows(z, y, i, b.r1) if whole else 1
        if activation == SOFTMAX:
            softmax_rows(row(z, i, dtype), row(y, i, dtype), n, c)
        else:
            activate(activation, row(z, i, dtype) + b.c0, row(y, i, dtype) + b.c0, n * (b.c1 - b.c0))
        i += n


cdef void derive_rows(int activation, const Rows* v, const Rows* dy, const Rows* dz, Py_ssize_t c, Block b,
                      floating* dtype) noexcept nogil:
    # dz (n, c) = dy phi'(v), v being z or y, as activation_derivative takes it
    cdef Py_ssize_t i = b.r0, n
    cdef bint whole = v.ld == c and dy.ld == c and dz.ld == c and b.c0 == 0 and b.c1 == c
    while i < b.r1:
        n = common_rows(v, dy, i, run_rows(dz, i, b.r1) + i) if whole else 1
        if activation == SOFTMAX:
            softmax_rows_backward(row(v, i, dtype), row(dy, i, dtype), row(dz, i, dtype), n, c)
        else:
            activate_backward(activation, row(v, i, dtype) + b.c0, row(dy, i, dtype) + b.c0, row(dz, i, dtype) + b.c0,
                              n * (b.c1 - b.c0))
        i += n


cdef void derive_tangent_rows(int activation, const Rows* v, const Rows* tv, const Rows* dy, const Rows* tdy, Py_ssize_t c,
                              Block b, floating* dtype) noexcept nogil:
    # dy (n, c) becomes dz = dy phi'(v), tdy its tangent
    cdef Py_ssize_t i = b.r0, n
    cdef bint whole = v.ld == c and tv.ld == c and dy.ld == c and tdy.ld == c
    while i < b.r1:
        n = common_rows(v, tv, i, common_rows(dy, tdy, i, b.r1) + i) if whole else 1
        if activation == SOFTMAX:
            softmax_rows_tangent_backward(row(v, i, dtype), row(tv, i, dtype), row(dy, i, dtype), row(tdy, i, dtype), n, c)
        else:
            activate_tangent_backward(activation, row(v, i, dtype), row(tv, i, dtype), row(dy, i, dtype), row(tdy, i, dtype), n * c)
        i += n
