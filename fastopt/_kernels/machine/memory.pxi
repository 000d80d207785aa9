# Memory of our own, 64 bytes aligned, for what no NumPy array holds.

cdef extern from "pages.h" nogil:
    void advise_huge_pages(void* block, size_t size)


cdef void* aligned_block(size_t size, bint zeroed=True) except NULL:
    # on a cache line of its own
    cdef void* block = NULL
    if posix_memalign(&block, 64, size + 64) != 0:
        raise MemoryError(f"no memory for {size} bytes")
    advise_huge_pages(block, size)
    if zeroed:
        memset(block, 0, size)
    return block


cdef void* grown(void* block, size_t size, size_t more) except NULL:
    # a zeroed block that starts with the `size` bytes of the old one, which is freed
    cdef void* wider = aligned_block(size + more)
    if block != NULL:
        memcpy(wider, block, size)
        free(block)
    return wider


cdef class Scratch:
    """Memory of one call, not initialized."""
    cdef void* start

    def __cinit__(self, size_t size):
        self.start = aligned_block(size, False)

    def __dealloc__(self):
        free(self.start)
