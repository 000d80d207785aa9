# The fused update: rows of dW take their step while they are in cache, and are gone.
#
# The update is fused only in a step that cannot be refused any more (`can_fuse`). Where the norm of all gradients is limited, it
# is taken from rows of x and dz before the first update.

cdef struct FusedRows:
    const RowOffsets* at
    const void *dz
    const void *x
    const Weight* weight
    Plan* plan
    Py_ssize_t n                # rows of x and dz
    void* room                  # of the thread, FUSED_ROWS rows of FUSED_COLUMNS elements


cdef inline bint can_fuse(const Plan* plan) noexcept nogil:
    return plan != NULL and plan.check_finite == FINITE_ANY and plan.accumulate == 1 and not plan.interim


cdef void update_rows(const FusedRows* f, Block b, floating* dtype) noexcept nogil:
    # rows r0 to r1, columns c0 to c1 of the weight take their step
    cdef floating* rows = <floating*>f.room
    cdef const Weight* w = f.weight
    cdef Tensor* t = &f.plan.tensors[w.grad]
    cdef Py_ssize_t i, j, block_rows, cols, start
    cdef unsigned long mode
    while b.r0 < b.r1:
        block_rows = min(<Py_ssize_t>FUSED_ROWS, b.r1 - b.r0)
        j = b.c0
        while j < b.c1:
            cols, start = min(<Py_ssize_t>FUSED_COLUMNS, b.c1 - j), b.r0 * w.columns + j
            weight_gradient(f.at, <floating*>f.dz, <floating*>f.x, rows, cols, Block(b.r0, b.r0 + block_rows, j, j + cols), f.n, False)
            if penalizes(&w.penalty):
                for i in range(block_rows):
                    add_penalty_gradient(&w.penalty, <floating*>w.at + start + i * w.columns, rows + i * cols, cols)
            mode = enter_update(f.plan)
            if cols == w.columns:
                update_range(f.plan, t, start, start + block_rows * cols, rows)
            else:
                for i in range(block_rows):
                    update_range(f.plan, t, start + i * w.columns, start + i * w.columns + cols, rows + i * cols)
            restore_denormals(mode)
            j += cols
        b.r0 += block_rows
