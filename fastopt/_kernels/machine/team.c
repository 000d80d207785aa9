/* A team of threads, as team.h declares it: one copy of its state for all that a level is linked from.
 *
 * The barrier is our own: it spins briefly and then gives the core away. The
 * runtime's spins for milliseconds, which on cores that other programs use too
 * is what the thread it waits for would need to arrive.
 *
 * The runtime ends the process where it cannot create a thread (a limit on the
 * threads of a container). So a thread that opens a region of more threads than
 * it ever had creates and ends the missing ones first: see team_probe.
 *
 * libgomp's pool does not survive a fork: before a fork the pool of the forking
 * thread is released (OpenMP 5), and made anew by the next region. Where that
 * call is missing, the child computes on one thread.
 */
#include "team.h"

#include <pthread.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#endif

static int team_serial_child = 0;
int team_process = 1;

double team_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef _OPENMP
/* ---- threads that can be created */

static __thread int team_granted = 1; /* threads this thread has had, itself among them */
static __thread int team_refused = 0; /* the value of team_generation when the system refused it more */
static int team_generation = 1;       /* raised where a refusal may be asked again */
static int team_smallest = 0;         /* the smallest team that a refusal has left; 0: there was none */

static void *team_pass(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* The largest team up to `team` whose threads the system lets this thread create:
 * the missing ones are created, wait for each other, and end. */
static __attribute__((noinline)) int team_probe(int n_threads) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t made[TEAM_MAX];
    int missing, n = 0;
    if (team_refused == team_generation) return team_granted;
    missing = (n_threads < TEAM_MAX ? n_threads : TEAM_MAX) - team_granted;
    pthread_mutex_lock(&gate);
    while (n < missing && !pthread_create(&made[n], NULL, team_pass, &gate)) n++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n; i++) pthread_join(made[i], NULL);
    team_granted += n;
    if (n < missing) {
        team_refused = team_generation;
        if (!team_smallest || team_granted < team_smallest) team_smallest = team_granted;
    }
    return team_granted;
}
static inline void team_reset(void) {
    team_granted = 1;
    team_refused = 0;
}

/* ---- fork */

#ifdef FASTOPT_OPENMP_PAUSE /* found by setup.py's probe: gcc has it before it claims OpenMP 5 */
static void team_before_fork(void) {
    omp_pause_resource_all(omp_pause_hard);
    team_reset();
}
static void team_in_child(void) { team_process++; }
#else
static void team_before_fork(void) {}
static void team_in_child(void) {
    team_process++;
    team_serial_child = 1;
}
#endif

/* ---- region and barrier */

typedef struct {
    _Atomic ptrdiff_t arrived;
    atomic_uint round;
} team_barrier_state;
static __thread team_barrier_state *team_state = NULL; /* of the region this thread is in */

/* Spins that cover a thread's usual lateness, a microsecond or so. */
enum { TEAM_SPINS = 2000 };

void team_barrier(ptrdiff_t n_threads) {
    team_barrier_state *state = team_state;
    unsigned round;
    if (n_threads <= 1) return;
    round = atomic_load_explicit(&state->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&state->arrived, 1, memory_order_acq_rel) == n_threads - 1) {
        atomic_store_explicit(&state->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&state->round, 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&state->round, memory_order_acquire) == round; spins++) {
        if (spins < TEAM_SPINS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else {
            sched_yield();
        }
    }
}
void team_run(team_job job, void *args, ptrdiff_t n_threads) {
    if (n_threads > team_granted) n_threads = team_probe((int)n_threads);
    if (n_threads <= 1) {
        job(args, 0, 1);
        return;
    }
    team_barrier_state state = {0};
#pragma omp parallel num_threads((int)n_threads)
    {
        team_state = &state;
        job(args, omp_get_thread_num(), omp_get_num_threads());
    }
}

/* ---- what the runtime knows */

static inline int team_limit(void) { return omp_get_max_threads(); }
int team_hard_limit(void) { return omp_get_thread_limit(); }
static inline int team_processors(void) { return omp_get_num_procs(); }
int team_places(void) { return omp_get_num_places(); }
int team_place_size(int place) { return omp_get_place_num_procs(place); }
void team_place(int place, int *cpus) { omp_get_place_proc_ids(place, cpus); }
#else
static int team_granted = 1, team_refused = 0, team_generation = 1, team_smallest = 0;
static void team_before_fork(void) {}
static void team_in_child(void) { team_process++; }
static inline int team_limit(void) { return 1; }
int team_hard_limit(void) { return 1; }
static inline int team_processors(void) { return 1; }
int team_places(void) { return 0; }
int team_place_size(int place) { return (void)place, 0; }
void team_place(int place, int *cpus) { (void)place, (void)cpus; }
void team_barrier(ptrdiff_t n_threads) { (void)n_threads; }
void team_run(team_job job, void *args, ptrdiff_t n_threads) {
    (void)n_threads;
    job(args, 0, 1);
}
#endif

/* ---- how many are wanted */

/* The thread's own count (0: none) and the process's. */
static __thread int team_own = 0;
static int team_common = 1;
static int team_first_limit = 1; /* the runtime's, as it starts in every thread */

int team_get(void) {
    const int wanted = team_own ? team_own : team_common;
    const int limit = team_limit();
    if (!TEAM_OPENMP || team_serial_child) return 1;
    /* a limit lower than the runtime's first is somebody's wish (threadpoolctl): it holds for overrides too */
    return limit < team_first_limit && limit < wanted ? limit : wanted;
}
int team_get_own(void) { return team_own; }
void team_set_own(int n) { team_own = n; }
void team_set_common(int n) {
    team_common = n;
    team_generation++;
    team_smallest = 0;
}
int team_get_smallest(void) { return team_smallest; }
/* Threads of the largest team this thread can have, as far as it knows. */
int team_max(void) { return team_refused == team_generation ? team_granted : TEAM_MAX; }

static void *team_read_limit(void *limit) {
    *(int *)limit = team_limit();
    return NULL;
}
void team_initialize(void) {
    pthread_t reader; /* whose limit nobody can have set yet */
    pthread_atfork(team_before_fork, NULL, team_in_child);
    team_first_limit = team_limit();
    if (team_first_limit < team_processors() && !pthread_create(&reader, NULL, team_read_limit, &team_first_limit))
        pthread_join(reader, NULL);
}
