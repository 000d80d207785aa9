# Tuning table: every number that was measured, with the measurement; microseconds or GFLOP/s of one
# core with AVX-512 (FMA peak 240 GFLOP/s, L1 48 KiB, L2 2 MiB), float32, unless it says otherwise.
# What differs by instruction set, the sizes of the register tiles, stands in simd.h.
# "bits" marks a number that is part of the definition of the results: sums are cut there.

# What differs between processors: numbers that the table in _kernels/processors.py holds, and the package sets once,
# at import. No result depends on them.
cdef struct Tuning:
    Py_ssize_t update_prefetch, dot_prefetch_bytes, l2_bytes

cdef Tuning tuning


def set_tuning(dict numbers):
    """Take the numbers of a processor, checked by processors.py: what every later call reads."""
    global tuning
    tuning = numbers


def get_tuning():
    """The numbers in use, by name."""
    return tuning


# Teams. A region costs 0.7 to 0.9 us back to back and a barrier about 0.3 us, and both far more where
# other programs want the cores.
cdef enum:
    WORK_PER_THREAD = 200_000   # multiply-adds (or moved elements times 4) between two barriers: 1.7 us and more
    GRAIN = 64                  # elements; at least 256 bytes: threads do not share a cache line
    MIN_OWN_ROWS = 32           # rows a thread needs to work alone. 1024x1024, batch 32, 2 threads: alone 399 us, by outputs 303
    UPDATE_WORK = 12            # multiply-adds that the update of a weight counts for: 28 bytes. 784-512-512-10, batch 1
    PREDICT_ROWS = 256          # rows of predict at a time: their values stay in L2, whatever the batch
    # of images so many that their values take half of L2, or as much as the weights, which are read once for all, up to this.
    PREDICT_MOST_BYTES = 1 << 24        # Six 1x1 layers of 16 channels at 28x28: 12.7 ms, of 16 MiB 17
    PREDICT_WORK = 1 << 24      # multiply-adds of a call that reads no clock: 0.3 ms of Dense, 60 of sigmoids in float64

# Products.
cdef enum:
    DOT_DEPTH_BYTES = 4096        # of the summed dimension; bits. A tile's rows of W stay in L1 while the rows of x pass
    OFFSET_BLOCK = 512            # rows whose offsets are found at a time, on the stack
    SUM_DEPTH = 1024              # terms of a sum that stays in registers; longer sums are added; bits
    # rows from which x goes in strips. 256x256, batch 16/24/32: 17/29/28 us, in the dot micro-kernel 18/26/35
    TRANSPOSE_ROWS = 25
    TRANSPOSE_WORK = 5            # multiply-adds that an element costs to transpose. 256x256, batch 256: 316 -> 304 us
    BLOCK_OUT = 48                # outputs between two transposes: whole tiles and whole vectors at every level
    DENSE_ROWS = 256              # rows of functional.dense that are in strips at a time
    # of rows of dz that all columns of W meet: they stay in L2. dx 1024x1024, batch 128: 0.82 -> 0.92 of peak
    INPUT_GRADIENT_BYTES = 1 << 18
    INPUT_GRADIENT_FEW = 16             # rows that read W so many of its rows at a time: 1024x1024, batch 8: 191 -> 179 us
    INPUT_GRADIENT_DEPTH = 128

# Convolutions.
cdef enum:
    TILE_PIXELS = 4             # that a tile of fewer pixels costs as much as
    GRADIENT_PIXELS = 128       # pixels of a sum of dW that stays in registers; bits
    GRADIENT_ROWS = 64          # rows of dW that a thread takes at least
    GRADIENT_CHUNKS = 8         # chunks of pixels at most; bits
    GRADIENT_CHUNK_PIXELS = 1024    # of a chunk at least; bits
    SMALL_GRADIENT = 1 << 15    # elements of dW up to which pixels are cut into chunks; bits

# The fused update.
cdef enum:
    FUSED_ROWS = 24           # of dW at a time, fused or not, whole tiles at every level,
    FUSED_COLUMNS = 1024      # and of its columns, whole strips: runs as long as the processor follows
    FUSED_FEW = 8             # fewer rows: W is read once, for dx and the update. 784-512-512-10, batch 1: 690 -> 450 us
    GRAM_WORK = 10              # ||dW|| from rows while that takes fewer multiply-adds a weight: batch 1, clipped norm: 870 -> 570 us

# Updates.
cdef enum:
    BLOCK = 16                  # elements: a cache line of float32
    GRAD_BLOCK = 1024           # elements of a gradient made ready, in L1
    CHUNK_BYTES = 512           # threads do not share a cache line
    NORM_BLOCK = 4096           # elements whose squares are added in one go; bits
    EMA_BLOCK = 2048            # elements between an update and its moving average: they stay in L1

# What subnormal numbers, taken for 0, can change in sqrt(v) + eps or in sqrt(v + eps): less than half a unit of float32
# from 4e-12 on. Beyond the largest eps, 1 / eps would leave the normal numbers. bits
cdef double MIN_EPS = 1e-11, MAX_EPS = 1e30

# Columns and rows.
cdef enum:
    ROW_GRAIN = 16              # rows of one thread, whole vectors of dz transposed
    COLUMN_GRAIN = 16           # columns of one thread, whole cache lines
    SUM_ROWS = 128              # of a bias gradient, added before they meet the others; bits
    # columns whose sums stay in L1, on the stack. Where they fit L2, batch norm maps them before it sums the next ones; else whole
    # rows. Zen 4, by blocks and by whole rows: 512x2048 184 and 216 us, 1000x600 106 and 98, 4000x600 810 and 640
    COLUMN_BLOCK = 512
    CENTER_ROWS = 8             # whose mean the first sums are taken about; bits
    STATISTICS_ROWS = 64        # summed in the dtype before they are merged; bits
    STATISTICS_BLOCK = 1024     # elements of a channel, likewise; bits
    SCALE_ROWS = 16             # rows that are still in L1 when the activation follows
    # A map writes arrays of so many bytes past the cache. Zen 4, forward and backward, plain and so: 1000x2000 2060 and 1600 us,
    # 4000x600 2700 and 2150; normalization of 1000x600 alone, 90 and 121
    STREAM_BYTES = 7 << 20
    NARROW = 32                 # columns of a loss up to which transposing rows costs less than their sums lane by lane

# Pooling.
cdef enum:
    POOL_BLOCK = 2048           # elements of folded columns, on the stack, in L1
    POOL_CHANNELS = 1024        # channels of a window at a time, likewise

# Generalized linear models.
cdef enum:
    GLM_DOT_ROWS = 4            # rows of X that a tile of linear predictors reads, so many streams. 20 000 x 300, pass: 2.4 ms, of 8 2.6
    HESSIAN_ROWS = 64           # rows of a symmetric update, in L1 with a strip; bits. 20 000 x 300: 59 GFLOP/s, float32 105
    GLM_CHUNKS = 16             # chunks of rows at most, so threads that can work at once; bits
    GLM_CHUNK_SQUARES = 4       # rows of a chunk at least, times q: its Hessian costs far more than to clear and add it; bits
    GLM_FEW_CHUNKS = 4          # but so many, for the passes without a Hessian; bits
    GLM_ENTRY = 4               # elements of X that an entry of a sparse row costs as much as in a pass: 500 000 x 12: 9 ms
    GLM_ENTRY_PAIR = 16         # multiply-adds that two entries cost as much as in a Hessian: 500 000 x 12: 31 ms
    SLICE_WORK = 1 << 25        # multiply-adds of a pass between two looks at signals: 5 to 20 ms on one thread
    SLICE_HESSIAN_WORK = 1 << 29  # of a Hessian: 20 ms; a slice reads those of all chunks anew (20 000x300: 3 cost 4 %, 27 cost 13)
