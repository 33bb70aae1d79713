// Triton's dynamic batcher looks again whether an instance is idle, where it would sleep on: docs/reliability.md.
// A model with a bounded queue has its next batch made once an instance is idle. What tells the batcher so can come
// before the instance is counted as idle, and then only the next request that the queue takes in wakes it: where the
// queue is full, none does for 500 ms. POSIX lets every wait on a condition return early, and Triton's does look again.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum { LOOK_AGAIN = 1000000 }; // nanoseconds
enum { FRAMES = 16384 };       // bytes of the stack, more than the batcher's functions take

static bool earlier(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

int pthread_cond_clockwait(
    pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until)
{
    int (*real)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *) =
        dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    // Of Triton's waits this one alone has its mutex on the stack of who waits, because it guards nothing.
    char here;
    if ((uintptr_t)mutex - (uintptr_t)&here < FRAMES) {
        struct timespec soon;
        clock_gettime(clock, &soon);
        soon.tv_nsec += LOOK_AGAIN;
        if (soon.tv_nsec >= 1000000000) {
            soon.tv_nsec -= 1000000000;
            soon.tv_sec++;
        }
        if (earlier(&soon, until)) {
            int status = real(condition, mutex, clock, &soon);
            return status == ETIMEDOUT ? 0 : status;
        }
    }
    return real(condition, mutex, clock, until);
}
