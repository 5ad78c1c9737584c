/* loads CPU SECONDS RATE FILE TASK...: periodic tasks on one CPU, in backlog when late, for a second and SECONDS more;
 * prints FILE as it is before and after those SECONDS, a word before each line. The first release is 0.3 ms after a tick of the
 * scheduler (multiples of 4 ms of the monotonic clock at 250 Hz): where a governor's samples fall depends on it.
 * TASK = PERIOD_US:WORK_US[:PERIOD_END_US]: work in us at RATE (thousand iterations/s, of the CPU at its top OPP); the
 * time to the next release goes linearly from PERIOD_US to PERIOD_END_US. `loads CPU SECONDS` alone prints the rate. Build: cc -O2 -static */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
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
    double from = 0, us = 0, to = -1;
    if (sscanf(spec, "%lf:%lf:%lf", &from, &us, &to) < 2) { fprintf(stderr, "loads: %s: not PERIOD_US:WORK_US[:PERIOD_END_US]\n", spec); exit(2); }
    if (to < 0) to = from;
    for (double release = start; release < start + seconds; release += (from + (to - from) * (release - start) / seconds) / 1e6) {
        if (now() < release) until(release);
        work(us / 1e6 * rate);
    }
}

static void show(const char *what, const char *path)
{
    char line[256];
    FILE *f = fopen(path, "r");
    if (!f) { perror(path); exit(1); }
    while (fgets(line, sizeof line, f)) printf("%s %s", what, line);
    fclose(f);
}

int main(int n, char **v)
{
    if (n < 3) return fprintf(stderr, "usage: loads CPU SECONDS [RATE FILE TASK...]\n"), 2;
    cpu_set_t s; CPU_ZERO(&s); CPU_SET(atoi(v[1]), &s);
    double seconds = atof(v[2]), warm = 1;
    if (n == 3) {
        sched_setaffinity(0, sizeof s, &s);
        double t = now(), k = 0;
        while (now() - t < seconds) { work(20); k += 20; }
        return printf("%.1f\n", k / (now() - t)), 0;
    }
    double start = ((long)(now() / 0.004) + 5) * 0.004 + 0.0003;
    pid_t pids[16];
    for (int i = 5; i < n && i < 21; i++)
        if (!(pids[i - 5] = fork())) { sched_setaffinity(0, sizeof s, &s); task(start, warm + seconds, atof(v[3]), v[i]); _exit(0); }
    until(start + warm); show("before", v[4]);
    until(start + warm + seconds); show("after", v[4]);
    for (int i = 5; i < n && i < 21; i++) { kill(pids[i - 5], SIGKILL); waitpid(pids[i - 5], NULL, 0); }
}
