/* Print the host's TSC rate in kHz: TCG hands the host's counter to the guest, and a guest that measures it itself on a
 * loaded host may be wrong by a factor (9 was seen: its clock then runs 9 times too fast). */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC_RAW, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }

static void pair(uint64_t *tsc, uint64_t *at)      /* of 1000 tries the one least disturbed */
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        uint64_t a = __rdtsc(), t = ns(), b = __rdtsc();
        if (b - a < best) best = b - a, *tsc = a + best / 2, *at = t;
    }
}

int main(void)
{
    uint64_t c0, c1, t0, t1;
    struct timespec d = { 0, 200000000 };
    pair(&c0, &t0);
    nanosleep(&d, NULL);
    pair(&c1, &t1);
    printf("%.0f\n", (double)(c1 - c0) * 1e6 / (double)(t1 - t0));
}
