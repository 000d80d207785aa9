# How work is shared out: the size of a team, and a member's share.
#
# - A kernel is a function of (arguments, member, team): every member calls it,
#   computes its own share and meets the others at team_barrier. A call opens one
#   region (team_run), however many kernels run inside it.
# - A share is a range of whole grains; only who computes an element depends on
#   the team, never the order in which the element is summed.
# - Below WORK_PER_MEMBER no region is opened.

cdef extern from "team.h" nogil:
    ctypedef void (*team_job)(void* args, Py_ssize_t member, Py_ssize_t team) noexcept nogil
    const int TEAM_OPENMP
    double team_seconds()
    void team_initialise()
    int team_get()
    int team_get_own()
    void team_set_own(int n)
    void team_set_common(int n)
    void team_barrier(Py_ssize_t team)
    void team_run(team_job job, void* args, Py_ssize_t team)


cdef inline Py_ssize_t team_for(Py_ssize_t work) noexcept nogil:
    # members worth waking for `work` multiply-adds
    return max(1, min(<Py_ssize_t>team_get(), work // WORK_PER_MEMBER))


cdef inline Py_ssize_t share(Py_ssize_t n, Py_ssize_t grain, Py_ssize_t member, Py_ssize_t team) noexcept nogil:
    # where member's range of [0, n) starts, cut at whole grains; it ends where the next one's starts
    cdef Py_ssize_t grains = (n + grain - 1) // grain
    return min(n, grains * member // team * grain)


def get_team():
    return team_get()


def get_own_team():
    return team_get_own()


def set_own_team(int n):
    team_set_own(n)


def set_common_team(int n):
    team_set_common(n)


def has_openmp():
    return bool(TEAM_OPENMP)
