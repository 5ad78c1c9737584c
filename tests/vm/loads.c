/* loads CPU SECONDS RATE TASK...: periodic tasks on one CPU, in backlog when late; then exits.
 * TASK = PERIOD_US:WORK_US[:WORK_END_US]: work in us at RATE (thousand iterations/s, of the CPU at its top OPP), growing
 * linearly to WORK_END_US at the end. `loads CPU SECONDS` alone prints the rate. Build: cc -O2 -static */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static void until(double x)
{
    struct timespec t = { (long)x, (long)((x - (long)x) * 1e9) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}
static void work(double kilo) { volatile unsigned x = 1; for (long j = 0; j < kilo; j++) for (int i = 0; i < 1000; i++) x = x * 1664525u + 1013904223u; }

static void task(double start, double seconds, double rate, const char *spec)
{
    double period = 0, from = 0, to = -1;
    if (sscanf(spec, "%lf:%lf:%lf", &period, &from, &to) < 2) { fprintf(stderr, "loads: %s: not PERIOD_US:WORK_US[:WORK_END_US]\n", spec); exit(2); }
    if (to < 0) to = from;
    for (double release = start; release < start + seconds; release += period / 1e6) {
        if (now() < release) until(release);
        if (now() > start + seconds) break;
        work((from + (to - from) * (release - start) / seconds) / 1e6 * rate);
    }
}

int main(int n, char **v)
{
    if (n < 3) return fprintf(stderr, "usage: loads CPU SECONDS [RATE TASK...]\n"), 2;
    cpu_set_t s; CPU_ZERO(&s); CPU_SET(atoi(v[1]), &s); sched_setaffinity(0, sizeof s, &s);
    double seconds = atof(v[2]);
    if (n == 3) {
        double t = now(), k = 0;
        while (now() - t < seconds) { work(20); k += 20; }
        return printf("%.1f\n", k / (now() - t)), 0;
    }
    double start = now() + 0.02;
    for (int i = 4; i < n; i++) if (!fork()) { task(start, seconds, atof(v[3]), v[i]); _exit(0); }
    while (wait(NULL) > 0) {}
}
