/* A team of threads: the one parallel region, its barrier, and the fork rule.
 *
 * A job is called by every thread of the team with its number and the size of
 * the team; it does its chunk and waits for the others at team_barrier. Without
 * OpenMP, or with a team of one, no region is opened. The team met may be
 * smaller than the one asked for, never larger.
 */
#ifndef FASTOPT_TEAM_H
#define FASTOPT_TEAM_H

#include <stddef.h>

typedef void (*team_job)(void *args, ptrdiff_t thread, ptrdiff_t n_threads);

enum { TEAM_MAX = 1024 }; /* threads */
#ifdef _OPENMP
enum { TEAM_OPENMP = 1 };
#else
enum { TEAM_OPENMP = 0 };
#endif

#pragma GCC visibility push(hidden)
/* Forks between the first process and this one, plus one: what a thread noted
 * under another number was noted by a thread that this process has not got. */
extern int team_process;
double team_seconds(void);
void team_initialize(void);

void team_run(team_job job, void *args, ptrdiff_t n_threads);
void team_barrier(ptrdiff_t n_threads);

/* Threads that a call of this thread may have: its own count (0: none) or the process's, within the runtime's limit. */
int team_get(void);
int team_get_own(void);
void team_set_own(int n);
void team_set_common(int n);
/* The smallest team that a refusal of the system has left; 0: there was none. */
int team_get_smallest(void);
/* Threads of the largest team this thread can have, as far as it knows. */
int team_max(void);

/* What the runtime knows. */
int team_hard_limit(void);
int team_places(void);
int team_place_size(int place);
void team_place(int place, int *cpus);
#pragma GCC visibility pop
#endif
