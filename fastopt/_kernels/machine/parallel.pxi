# How work is shared out: the size of a team, and a thread's chunk.
#
# - A kernel is a function of (arguments, thread, team): every thread calls it,
#   computes its own chunk and waits for the others at team_barrier. A call opens one
#   region (team_run), however many kernels run inside it.
# - A chunk is a range of whole grains; only who computes an element depends on
#   the team, never the order in which the element is summed.
# - Below WORK_PER_THREAD no region is opened.
# - What a thread takes for a while (a count of its own, BLAS on one thread) it takes and gives back in C: between
#   taking and noting it no signal is handled, so an interrupt leaves nothing behind.

cdef extern from "team.h" nogil:
    ctypedef void (*team_job)(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil
    const int TEAM_OPENMP, TEAM_MAX
    const int team_process
    double team_seconds()
    void team_initialize()
    int team_get()
    int team_get_own()
    int team_get_smallest()
    int team_max()
    int team_hard_limit()
    int team_places()
    int team_place_size(int place)
    void team_place(int place, int* cpus)
    void team_set_own(int n)
    void team_set_common(int n)
    void team_barrier(Py_ssize_t n_threads)
    void team_run(team_job job, void* args, Py_ssize_t n_threads)

cdef extern from "blas.h":
    void blas_initialize()
    void blas_add(size_t get, size_t set, int own)
    void blas_hold()
    void blas_release()

cdef struct Block:              # of a result: a thread's rows r0 to r1, columns c0 to c1
    Py_ssize_t r0, r1, c0, c1

MAX_THREADS = TEAM_MAX


ctypedef void (*float_job)(void* args, float* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil
ctypedef void (*double_job)(void* args, double* dtype, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil

cdef struct TypedJob:
    bint single                 # of_float runs, else of_double
    float_job of_float
    double_job of_double
    void* args


cdef void typed_job(void* args, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    cdef TypedJob* job = <TypedJob*>args
    if job.single:
        job.of_float(job.args, NULL, thread, n_threads)
    else:
        job.of_double(job.args, NULL, thread, n_threads)


cdef inline void run_typed(int typenum, float_job of_float, double_job of_double, void* args, Py_ssize_t n_threads) noexcept nogil:
    # team_run of a fused job's two versions, f[float] and f[double]: the one that typenum asks for
    cdef TypedJob job = TypedJob(typenum == cnp.NPY_FLOAT32, of_float, of_double, args)
    team_run(typed_job, &job, n_threads)


cdef inline Py_ssize_t threads_for(Py_ssize_t work) noexcept nogil:
    # threads worth waking for `work` multiply-adds
    return max(1, min(<Py_ssize_t>team_get(), work // WORK_PER_THREAD))


cdef inline Py_ssize_t chunk_start(Py_ssize_t n, Py_ssize_t grain, Py_ssize_t thread, Py_ssize_t n_threads) noexcept nogil:
    # where thread's range of [0, n) starts, cut at whole grains; it ends where the next one's starts
    cdef Py_ssize_t grains = (n + grain - 1) // grain
    return min(n, grains * thread // n_threads * grain)


# ---------------------------------------------------------------- for threads.py

def get_thread_count():
    return min(team_get(), team_max())


def set_common_thread_count(int n):
    team_set_common(n)


def smallest_team():
    """Threads of the smallest team with which a call had to do because the system refused it threads; 0: none had to."""
    return team_get_smallest()


def has_openmp():
    return bool(TEAM_OPENMP)


def thread_limit():
    """Threads that the runtime may have at all."""
    return team_hard_limit()


def places():
    """The sets of CPUs to which the runtime binds threads; none where it leaves them free."""
    found = []
    for place in range(team_places()):
        cpus = np.empty(team_place_size(place), np.intc)
        team_place(place, <int*>cnp.PyArray_DATA(<cnp.ndarray>cpus))
        found.append(frozenset(cpus.tolist()))
    return found


cdef class OwnThreadCount:
    """A count of threads of the calling thread's own, while the block lasts."""
    cdef readonly int n
    cdef int before

    def __init__(self, int n):
        self.n = n

    def __enter__(self):
        self.before = team_get_own()
        team_set_own(self.n)

    def __exit__(self, *error):
        team_set_own(self.before)


cdef class OneBlasThread:
    """BLAS on one thread while a block lasts; `find` is called where new modules may have loaded a library of BLAS."""
    cdef object find
    cdef Py_ssize_t looked          # the modules that were loaded when find was called last

    def __init__(self, find):
        self.find = find

    def __enter__(self):
        cdef Py_ssize_t modules = PyDict_Size(<object>PyImport_GetModuleDict())
        if modules != self.looked:
            self.find()
            self.looked = modules
        blas_hold()

    def __exit__(self, *error):
        blas_release()


def add_blas(size_t get, size_t set, bint own):
    """Take a library in, by the addresses of its functions; see blas.h."""
    blas_add(get, set, own)
