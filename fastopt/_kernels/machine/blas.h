/* BLAS, and so LAPACK, on one thread while any block of ours wants it.
 *
 * A pool is the two functions of a library that tell and set its threads; Python
 * finds them (threads.py). Most libraries have one count for the process: the
 * first block to begin notes it, the last to end puts it back. Who sets the
 * count meanwhile (threadpoolctl, in another thread) is respected afterwards,
 * and overruled by the next block that begins. A few libraries have a count for
 * each thread: each thread notes its own.
 *
 * The GIL is the lock: every function here is called with it. Nothing in here
 * calls Python, so no signal comes between taking a hold and noting it. A child
 * forgets the holds of the threads that the fork has not copied.
 */
#ifndef FASTOPT_BLAS_H
#define FASTOPT_BLAS_H

#include <pthread.h>
#include <stddef.h>

enum { BLAS_MAX = 16 }; /* libraries in one process */

typedef struct {
    int (*get)(void);            /* NULL where `set` returns the count before */
    int (*set)(ptrdiff_t count); /* what it returns is looked at only without `get` */
    int own;                     /* every thread has a count of its own */
    int before;                  /* of the process, to put back; 0: nothing */
} blas_pool;

static blas_pool blas_pools[BLAS_MAX];
static int blas_n_pools = 0;
static int blas_holds = 0;                       /* blocks open now, of all threads */
static __thread int blas_own_holds = 0;          /* of this one */
static __thread int blas_own_before[BLAS_MAX];   /* where every thread has a count of its own */
static __thread char blas_own_noted[BLAS_MAX];

static void blas_add(size_t get, size_t set, int own) {
    for (int i = 0; i < blas_n_pools; i++)
        if ((size_t)blas_pools[i].set == set) return;
    if (blas_n_pools < BLAS_MAX)
        blas_pools[blas_n_pools++] = (blas_pool){(int (*)(void))get, (int (*)(ptrdiff_t))set, own, 0};
}

static void blas_hold(void) {
    for (int i = 0; i < blas_n_pools; i++) {
        blas_pool *p = &blas_pools[i];
        const int count = p->get ? p->get() : 0;
        if (p->own && !blas_own_noted[i]) {
            const int before = p->set(1);
            blas_own_before[i] = p->get ? count : before;
            blas_own_noted[i] = 1;
        } else if (!p->own && count != 1) {
            p->before = count;
            p->set(1);
        }
    }
    blas_own_holds++;
    blas_holds++;
}

static void blas_put_back(blas_pool *p) {
    if (p->before && p->get() == 1) p->set(p->before); /* another count is somebody's wish since */
    p->before = 0;
}

static void blas_release(void) {
    blas_own_holds--;
    blas_holds--;
    for (int i = 0; i < blas_n_pools; i++) {
        blas_pool *p = &blas_pools[i];
        if (!p->own && !blas_holds) blas_put_back(p);
        if (p->own && !blas_own_holds && blas_own_noted[i]) {
            p->set(blas_own_before[i]);
            blas_own_noted[i] = 0;
        }
    }
}

static void blas_in_child(void) {
    blas_holds = blas_own_holds;
    for (int i = 0; i < blas_n_pools; i++)
        if (!blas_pools[i].own && !blas_holds) blas_put_back(&blas_pools[i]);
}

static void blas_initialize(void) { pthread_atfork(NULL, NULL, blas_in_child); }
#endif
