/* A team of threads: the one parallel region, its barrier, and the fork rule.
 *
 * A job is called by every member of the team with its number and the size of
 * the team; it does its share and meets the others at team_barrier. Without
 * OpenMP, or with a team of one, no region is opened.
 *
 * The barrier is our own: it spins briefly and then gives the core away. The
 * runtime's spins for milliseconds, which on cores that other programs use too
 * is what the member it waits for would need to arrive.
 *
 * libgomp's pool does not survive a fork: before a fork the pool of the forking
 * thread is released (OpenMP 5), and made anew by the next region. Where that
 * call is missing, the child computes on one thread.
 */
#ifndef FASTOPT_TEAM_H
#define FASTOPT_TEAM_H

#include <stddef.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#endif

typedef void (*team_job)(void *args, ptrdiff_t member, ptrdiff_t team);

static int team_serial_child = 0;

static inline double team_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef _OPENMP
enum { TEAM_OPENMP = 1 };
#ifdef FASTOPT_OPENMP_PAUSE /* found by setup.py's probe: gcc has it before it claims OpenMP 5 */
static void team_before_fork(void) { omp_pause_resource_all(omp_pause_hard); }
static void team_install_fork_handler(void) { pthread_atfork(team_before_fork, NULL, NULL); }
#else
static void team_in_child(void) { team_serial_child = 1; }
static void team_install_fork_handler(void) { pthread_atfork(NULL, NULL, team_in_child); }
#endif
static inline int team_limit(void) { return team_serial_child ? 1 : omp_get_max_threads(); }

typedef struct {
    _Atomic ptrdiff_t arrived;
    atomic_uint round;
} team_meeting;
static __thread team_meeting *team_here = NULL; /* of the region this thread is in */

/* Spins that cover a member's usual lateness, a microsecond or so. */
enum { TEAM_SPINS = 2000 };

static void team_barrier(ptrdiff_t team) {
    team_meeting *here = team_here;
    unsigned round;
    if (team <= 1) return;
    round = atomic_load_explicit(&here->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&here->arrived, 1, memory_order_acq_rel) == team - 1) {
        atomic_store_explicit(&here->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&here->round, 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&here->round, memory_order_acquire) == round; spins++) {
        if (spins < TEAM_SPINS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else {
            sched_yield();
        }
    }
}
static void team_run(team_job job, void *args, ptrdiff_t team) {
    if (team <= 1) {
        job(args, 0, 1);
        return;
    }
    team_meeting here = {0};
#pragma omp parallel num_threads((int)team)
    {
        team_here = &here;
        job(args, omp_get_thread_num(), omp_get_num_threads());
    }
}
#else
enum { TEAM_OPENMP = 0 };
static void team_install_fork_handler(void) {}
static inline int team_limit(void) { return 1; }
static inline void team_barrier(ptrdiff_t team) { (void)team; }
static void team_run(team_job job, void *args, ptrdiff_t team) {
    (void)team;
    job(args, 0, 1);
}
#endif

/* The thread's own count (0: none) and the process's. */
static __thread int team_own = 0;
static int team_common = 1;
static int team_first_limit = 1;

static inline int team_get(void) {
    const int wanted = team_own ? team_own : team_common;
    const int limit = team_limit();
    /* a limit lowered since import is somebody's wish (threadpoolctl): it holds for overrides too */
    if (limit < team_first_limit || !team_own) return wanted < limit ? wanted : limit;
    return TEAM_OPENMP && !team_serial_child ? wanted : 1;
}
static inline int team_get_own(void) { return team_own; }
static inline void team_set_own(int n) { team_own = n; }
static inline void team_set_common(int n) { team_common = n; }
static inline void team_initialise(void) {
    team_install_fork_handler();
    team_first_limit = team_limit();
}
#endif
