# A weight that stays as it is, kept in the strips that its product reads and in no other form: what a folded network holds.

cdef class PackedWeight:
    """A weight (out, ..., in / groups) of float32 or float64, in strips of outputs, group by group."""
    cdef readonly int typenum
    cdef readonly tuple shape
    cdef readonly Py_ssize_t groups
    cdef Py_ssize_t packed_groups       # that the product reads: 1 of a depthwise convolution, else groups;
    cdef Py_ssize_t width, size         # outputs of such a group, elements of an output
    cdef void* start                    # (packed_groups, strips, size, width of the strip)

    def __cinit__(self, weight, Py_ssize_t groups=1):
        cdef Py_ssize_t width
        self.typenum, self.shape, self.groups = float_type("weight", weight), weight.shape, groups
        if groups < 1 or not self.shape or not is_plain(weight, self.typenum, <int>len(self.shape)) or self.shape[0] % groups != 0:
            raise ValueError(f"weight: expected a C-contiguous array whose outputs make {groups} groups, got {self.shape}")
        depthwise = len(self.shape) == 4 and is_depthwise((self.shape[3] * groups, self.shape[0], groups))
        self.packed_groups = 1 if depthwise else groups
        self.width, self.size = self.shape[0] // self.packed_groups, math.prod(self.shape[1:])
        width = round_up(self.width, lanes_of(<float*>NULL))
        self.start = aligned_block(self.packed_groups * width * self.size * <Py_ssize_t>weight.itemsize, False)
        if self.typenum == cnp.NPY_FLOAT32:
            pack_groups(<float*>data(weight), self.packed_groups, self.width, self.size, <float*>self.start, 0, 1)
        else:
            pack_groups(<double*>data(weight), self.packed_groups, self.width, self.size, <double*>self.start, 0, 1)

    def __dealloc__(self):
        free(self.start)

    def __repr__(self):
        return f"PackedWeight of shape {self.shape}, {dtype_of(self.typenum)}, in {self.groups} groups"

    def unpacked(self):
        """The weight, a new read-only array."""
        weight = _arrays.aligned_zeros(self.shape, dtype_of(self.typenum))
        if self.typenum == cnp.NPY_FLOAT32:
            unpack_groups(<float*>self.start, self.packed_groups, self.width, self.size, <float*>data(weight))
        else:
            unpack_groups(<double*>self.start, self.packed_groups, self.width, self.size, <double*>data(weight))
        weight.flags.writeable = False
        return weight


cdef void unpack_groups(const floating* packed, Py_ssize_t groups, Py_ssize_t width, Py_ssize_t size, floating* weight) noexcept nogil:
    cdef Py_ssize_t group
    for group in range(groups):
        unpack_strips(packed + group * round_up(width, lanes_of(weight)) * size, width, size, weight + group * width * size)
