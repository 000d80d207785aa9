# Where the values of a program lie in one block of memory. Values that are never needed at the same time share it.
#
# - In inference a value is needed from the first entry that writes some of it to the last that reads it. In training backward
#   reads all values. A gradient is needed from the first entry, in the order of backward, that writes it to the last of those
#   that have written its value in forward.
# - Each value goes, in the order of time, into the first gap that holds it. Time is linear in the entries: few values live at once.
# - Offsets are elements of a sample, in whole ROOM_LINEs: a value starts on a cache line whatever the number of samples.
# - A border of zeros is lost where memory is shared: the first entry that writes a value clears its border again (see `forward`).
# - The input has no memory here, nor has the output in inference: they lie in arrays of the caller.

cdef enum:
    ROOM_LINE = 16              # elements: a cache line of float32

cdef struct Room:
    Py_ssize_t* first           # (n_values,) where the memory of an owner starts; -1: it has none here
    Py_ssize_t elements         # of a sample, all together
    bint shared                 # some values share memory


cdef inline Py_ssize_t room_of(const Shape* s) noexcept:
    return round_up(elements_of(s), ROOM_LINE)


cdef int fit_room(Room* room, list lives, const Shape* shapes, Py_ssize_t n_values, Arrays arrays) except -1:
    # lives: (first, last, owner), the times between which the owner's memory is its own, both included
    cdef Py_ssize_t i, size, total = 0
    cdef list gaps = [(0, PY_SSIZE_T_MAX)], ends = []   # gaps: (start, stop) by start; ends: a heap of (last, start, stop)
    room.first = <Py_ssize_t*>arrays.block(n_values * sizeof(Py_ssize_t))
    for i in range(n_values):
        room.first[i] = -1
    for first, last, owner in sorted(lives):
        while ends and ends[0][0] < first:
            _, start, stop = heapq.heappop(ends)
            release(gaps, start, stop)
        size = room_of(&shapes[owner])
        i = 0
        while gaps[i][1] - gaps[i][0] < size:
            i += 1
        start, stop = gaps[i]
        gaps[i:i + 1] = [(start + size, stop)] if stop - start > size else []
        heapq.heappush(ends, (last, start, start + size))
        room.first[owner], room.elements, total = start, max(room.elements, <Py_ssize_t>(start + size)), total + size
    room.shared = room.elements < total
    return 0


cdef int release(list gaps, object start, object stop) except -1:
    # a new gap, joined with those beside it
    cdef Py_ssize_t i = bisect.bisect(gaps, (start,))
    if gaps[i][0] == stop:      # the last gap has no end, so there is one behind
        stop = gaps.pop(i)[1]
    if i > 0 and gaps[i - 1][1] == start:
        i -= 1
        start = gaps.pop(i)[0]
    gaps.insert(i, (start, stop))
    return 0


cdef list lives_in_inference(const Entry* entries, Py_ssize_t n_entries, const Shape* shapes, Py_ssize_t output):
    cdef Py_ssize_t i, k
    cdef dict found = {}
    for i in range(n_entries):
        for k in range(entries[i].n_sources):
            extend_life(found, shapes[entries[i].sources[k].value].owner, i)
        extend_life(found, shapes[entries[i].dst].owner, i)
    return [(first, last, owner) for owner, (first, last) in found.items() if owner not in (0, output)]


cdef list lives_of_gradients(const Entry* entries, Py_ssize_t n_entries, const Shape* shapes, Py_ssize_t output, set has_gradient):
    # by time in backward
    cdef Py_ssize_t i, k, n_weights = 0, fused = 0
    cdef const Entry* e
    cdef dict found = {output: (0, 0)}          # which the loss has written
    for i in range(n_entries):
        e = &entries[n_entries - 1 - i]
        n_weights += 0 if e.frozen else e.n_weights
        fused += e.n_weights if e.fuses else 0
        if shapes[e.dst].owner in has_gradient and shapes[e.dst].owner not in found:    # nobody reads the value: zeros, for good
            found[shapes[e.dst].owner] = 0, n_entries
        if e.backs:
            extend_life(found, shapes[e.dst].owner, i)
        for k in range(e.n_sources):
            if e.sources[k].wanted:
                extend_life(found, shapes[e.sources[k].value].owner, i)
    if 0 in found:              # the caller reads it
        extend_life(found, 0, n_entries)
    if fused == n_weights:      # an UPDATE_CLIPPED may read all gradients after backward
        return [(0, n_entries, owner) for owner in found]
    return [(first, last, owner) for owner, (first, last) in found.items()]


cdef int extend_life(dict lives, Py_ssize_t owner, Py_ssize_t time) except -1:
    # times come in order
    first, last = lives.get(owner, (time, time))
    lives[owner] = first, max(last, time)
    return 0
