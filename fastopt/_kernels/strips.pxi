# Strips: one operand of the indirect micro-kernel (indirect.h), packed. A matrix (depth, n) becomes (strips, depth, width); a
# strip is as wide as a tile, and as even as whole vectors allow, so tiles of different heights have one width.

cdef extern from "simd.h" nogil:
    const int LANES_f, LANES_d, INDIRECT_VECS
    int INDIRECT_ROWS(int vecs)
    ctypedef struct Indirect:
        const Py_ssize_t *a_cols
        const Py_ssize_t *b_rows
        Py_ssize_t depth
        bint accumulate, resume, relu
    # c[c_rows[i] + j] = bias[j] + sum_k a[a_rows[i] + a_cols[k]] b[b_rows[k] + j]; packed: b is (depth, whole vectors)
    void indirect_packed "fastopt_indirect_packed"(const Indirect* p, int rows, Py_ssize_t cols, const void* a, const Py_ssize_t* a_rows,
                                                   const void* b, const void* bias, void* c, const Py_ssize_t* c_rows)
    void indirect_product "fastopt_indirect_product"(const Indirect* p, int rows, Py_ssize_t cols, const void* a,
                                                     const Py_ssize_t* a_rows, const void* b, const void* bias, void* c,
                                                     const Py_ssize_t* c_rows)
    # to[k * ldt + i] = source[i * ld + k]; in: zeros for i beyond `rows`
    void transpose_in "fastopt_transpose_in"(const void* source, Py_ssize_t ld, Py_ssize_t rows, void* to, Py_ssize_t ldt,
                                             Py_ssize_t depth)
    void transpose_out "fastopt_transpose_out"(const void* source, Py_ssize_t ld, Py_ssize_t rows, void* to, Py_ssize_t ldt,
                                               Py_ssize_t depth, bint relu)

cdef enum:
    MAX_INDIRECT_ROWS = 8       # of a tile, at any level

cdef Py_ssize_t IN_ORDER[SUM_DEPTH]     # 0, 1, 2, ...: where elements stand that lie side by side


cdef void number_in_order() noexcept nogil:
    cdef Py_ssize_t i
    for i in range(SUM_DEPTH):
        IN_ORDER[i] = i


number_in_order()


cdef inline Py_ssize_t lanes_of(floating* dtype) noexcept nogil:
    return LANES_f if floating is float else LANES_d


cdef inline Py_ssize_t round_up(Py_ssize_t n, Py_ssize_t grain) noexcept nogil:
    return (n + grain - 1) // grain * grain


cdef inline Py_ssize_t strip_width(floating* dtype) noexcept nogil:
    # of the widest strip
    return INDIRECT_VECS * lanes_of(dtype)


cdef inline Py_ssize_t vectors(Py_ssize_t n, floating* dtype) noexcept nogil:
    return (n + lanes_of(dtype) - 1) // lanes_of(dtype)


cdef inline Py_ssize_t n_strips(Py_ssize_t n_out, floating* dtype) noexcept nogil:
    return (vectors(n_out, dtype) + INDIRECT_VECS - 1) // INDIRECT_VECS


cdef inline Py_ssize_t strip_start(Py_ssize_t n_out, Py_ssize_t strip, floating* dtype) noexcept nogil:
    # the first output of a strip
    return vectors(n_out, dtype) * strip // n_strips(n_out, dtype) * lanes_of(dtype)


cdef inline Py_ssize_t strip_cols(Py_ssize_t n_out, Py_ssize_t strip, floating* dtype) noexcept nogil:
    return min(n_out, strip_start(n_out, strip + 1, dtype)) - strip_start(n_out, strip, dtype)


cdef inline int tile_rows(Py_ssize_t cols, floating* dtype) noexcept nogil:
    # the most rows of a tile so wide
    return INDIRECT_ROWS(<int>vectors(cols, dtype))


cdef inline Block rows_or_units(Py_ssize_t rows, Py_ssize_t units, bint many_weights, Py_ssize_t thread,
                                Py_ssize_t n_threads) noexcept nogil:
    # the thread's rows, and its strips of all groups. These are cut where they come out even and either rows are few, or
    # weights, which a thread then reads its own part of, more than rows
    if n_threads > 1 and (units % n_threads == 0 or units >= 4 * n_threads) and (many_weights or rows < 32 * n_threads):
        return Block(0, rows, chunk_start(units, 1, thread, n_threads), chunk_start(units, 1, thread + 1, n_threads))
    return Block(chunk_start(rows, 1, thread, n_threads), chunk_start(rows, 1, thread + 1, n_threads), 0, units)


cdef inline void strip_product(const Indirect* p, Py_ssize_t cols, const floating* a, const Py_ssize_t* a_rows, const floating* b,
                               const floating* bias, floating* c, const Py_ssize_t* c_rows, Py_ssize_t n) noexcept nogil:
    # n rows of c, the columns of a strip, in tiles as even as can be; b is packed if p has no b_rows
    cdef Py_ssize_t most = tile_rows(cols, c), tiles = (n + most - 1) // most, i = 0
    cdef int rows
    while i < n:
        rows = <int>((n - i + tiles - 1) // tiles)
        if p.b_rows == NULL:
            indirect_packed(p, rows, cols, a, a_rows + i, b, bias, c, c_rows + i)
        else:
            indirect_product(p, rows, cols, a, a_rows + i, b, bias, c, c_rows + i)
        i += rows
        tiles -= 1


cdef void pack_strips(const floating* weight, Py_ssize_t n_out, Py_ssize_t depth, Py_ssize_t first, Py_ssize_t last,
                      floating* packed) noexcept nogil:
    # strips `first` to `last` of weight (n_out, depth) -> (strips, depth, width), zeros for outputs that are missing
    cdef Py_ssize_t strip, column, width, i
    for strip in range(first, last):
        column = strip_start(n_out, strip, packed)
        width = strip_start(n_out, strip + 1, packed) - column
        i = 0
        while i < width:
            transpose_in(weight + (column + i) * depth, depth, min(lanes_of(packed), n_out - column - i),
                         packed + column * depth + i, width, depth)
            i += lanes_of(packed)


cdef void pack_groups(const floating* weight, Py_ssize_t groups, Py_ssize_t n_out, Py_ssize_t depth, floating* packed,
                      Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # weight (groups, n_out, depth) -> (groups, strips, depth, width), complete on return; a thread packs its chunk of strips
    cdef Py_ssize_t strips = n_strips(n_out, packed), units = groups * strips, group, end
    cdef Py_ssize_t unit = chunk_start(units, 1, thread, n_threads), last = chunk_start(units, 1, thread + 1, n_threads)
    while unit < last:
        group = unit // strips
        end = min(last, (group + 1) * strips)
        pack_strips(weight + group * n_out * depth, n_out, depth, unit - group * strips, end - group * strips,
                    packed + group * round_up(n_out, lanes_of(packed)) * depth)
        unit = end
    team_barrier(n_threads)


cdef void unpack_strips(const floating* packed, Py_ssize_t n_out, Py_ssize_t depth, floating* weight) noexcept nogil:
    # all strips, (strips, depth, width), -> weight (n_out, depth)
    cdef Py_ssize_t strip, column, width, k, lanes = lanes_of(weight)
    for strip in range(n_strips(n_out, weight)):
        column = strip_start(n_out, strip, weight)
        width, k = strip_start(n_out, strip + 1, weight) - column, 0
        while k < depth:
            transpose_out(packed + column * depth + k * width, width, min(lanes, depth - k), weight + column * depth + k, depth,
                          strip_cols(n_out, strip, weight), False)
            k += lanes


cdef inline void pack_row(const floating* row, Py_ssize_t n, Py_ssize_t k, Py_ssize_t depth, floating* packed) noexcept nogil:
    # row k of a matrix (depth, n) -> (strips, depth, width)
    cdef Py_ssize_t strip, column, width, cols
    for strip in range(n_strips(n, packed)):
        column = strip_start(n, strip, packed)
        width, cols = strip_start(n, strip + 1, packed) - column, strip_cols(n, strip, packed)
        memcpy(packed + column * depth + k * width, row + column, cols * <Py_ssize_t>sizeof(floating))
        memset(packed + column * depth + k * width + cols, 0, (width - cols) * <Py_ssize_t>sizeof(floating))
