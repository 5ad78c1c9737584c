/* speed MODE SECONDS CPU...: a busy loop on each CPU at once, prints "CPU million/s": iterations of an integer loop
 * (int), multiply-adds of an AVX2 FMA loop (fma). Build: cc -O2 -pthread -static */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static unsigned integers(void)
{
    volatile unsigned x = 1;
    for (int i = 0; i < 1000; i++) x = x * 1664525u + 1013904223u;
    return 1000;
}

__attribute__((target("avx2,fma"))) static unsigned multiply_adds(void)
{
    static __thread float out[8];
    __m256 a[8], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    for (int k = 0; k < 8; k++) a[k] = _mm256_set1_ps(k);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 8; k++) a[k] = _mm256_fmadd_ps(a[k], x, y);
    for (int k = 1; k < 8; k++) a[0] = _mm256_add_ps(a[0], a[k]);
    _mm256_storeu_ps(out, a[0]);
    *(volatile float *)out;
    return 16 * 8 * 8;
}

static struct job { unsigned (*loop)(void); int cpu; double seconds, rate; pthread_t thread; } jobs[64];

static void *work(void *arg)
{
    struct job *j = arg;
    cpu_set_t s; CPU_ZERO(&s); CPU_SET(j->cpu, &s); sched_setaffinity(0, sizeof s, &s);
    double t0 = now(), t = t0, done = 0;
    while (t - t0 < j->seconds) {
        for (int i = 0; i < 8; i++) done += j->loop();
        t = now();
    }
    j->rate = done / (t - t0) / 1e6;
    return NULL;
}

int main(int n, char **v)
{
    if (n < 4 || n > 66) return fprintf(stderr, "usage: speed int|fma SECONDS CPU...\n"), 2;
    for (int i = 3; i < n; i++) {
        jobs[i] = (struct job){ strcmp(v[1], "fma") ? integers : multiply_adds, atoi(v[i]), atof(v[2]), 0, 0 };
        pthread_create(&jobs[i].thread, NULL, work, &jobs[i]);
    }
    for (int i = 3; i < n; i++) {
        pthread_join(jobs[i].thread, NULL);
        printf("%d %.4f\n", jobs[i].cpu, jobs[i].rate);
    }
}
