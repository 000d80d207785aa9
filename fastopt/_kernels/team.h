/* A team of threads: the one parallel region, its barrier, and the fork rule.
 *
 * A job is called by every member of the team with its number and the size of
 * the team; it does its share and meets the others at team_barrier. Without
 * OpenMP, or with a team of one, no region is opened.
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
#if _OPENMP >= 201811
static void team_before_fork(void) { omp_pause_resource_all(omp_pause_hard); }
static void team_install_fork_handler(void) { pthread_atfork(team_before_fork, NULL, NULL); }
#else
static void team_in_child(void) { team_serial_child = 1; }
static void team_install_fork_handler(void) { pthread_atfork(NULL, NULL, team_in_child); }
#endif
static inline int team_limit(void) { return team_serial_child ? 1 : omp_get_max_threads(); }
static inline void team_barrier(ptrdiff_t team) {
    if (team > 1) {
        _Pragma("omp barrier")
    }
}
static void team_run(team_job job, void *args, ptrdiff_t team) {
    if (team <= 1) {
        job(args, 0, 1);
        return;
    }
#pragma omp parallel num_threads((int)team)
    job(args, omp_get_thread_num(), omp_get_num_threads());
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
