/* The conservative governor as an allocator, in C: the contract is not Rust's alone.
 *
 * The same arithmetic as `policies/formulas/src/conservative.rs` (`cs_dbs_update()` in
 * drivers/cpufreq/cpufreq_conservative.c) at its default tunables, so that the two policies' answers can
 * be compared. Applications get the whole of the first domain with CPUs, the default weight and their own
 * target. Takes no parameters.
 *
 * Arguments of an export belong to it: each one is freed, or kept, before it returns. */
#include "allocator.h"
#include <stdlib.h>
#include <string.h>

enum { UP_THRESHOLD = 80, DOWN_THRESHOLD = 20, FREQ_STEP = 5 };

typedef struct {
    uint64_t *freqs; /* by rising OPP */
    uint16_t opps;
    uint16_t lo, hi;    /* allowed at present */
    uint64_t requested; /* moves in steps finer than the table's */
    bool asked;
    uint16_t ask;
} governed;

static governed *domains;
static size_t domain_count;
static uint16_t granted;
static tandem_policy_types_slo_t *targets;
static size_t app_count;

/* n items; NULL for none, as the bindings free a list only when it has some. */
static void *array(size_t n, size_t size) {
    if (!n) return NULL;
    void *block = malloc(n * size);
    if (!block) abort();
    return block;
}

static bool refuse(allocator_string_t *err, const char *why) {
    allocator_string_dup(err, why);
    return false;
}

static void keep_targets(allocator_list_app_t *apps) {
    free(targets);
    app_count = apps->len;
    targets = array(app_count, sizeof *targets);
    for (size_t i = 0; i < app_count; i++) targets[i] = apps->ptr[i].target;
    allocator_list_app_free(apps);
}

bool exports_allocator_start(allocator_board_t *board, allocator_list_app_t *apps,
                             allocator_list_param_t *params, allocator_string_t *err) {
    keep_targets(apps);
    size_t given = params->len;
    allocator_list_param_free(params);
    if (given) return refuse(err, "c-conservative takes no parameters");

    bool found = false;
    domain_count = board->domains.len;
    domains = array(domain_count, sizeof *domains);
    for (size_t i = 0; i < domain_count; i++) {
        tandem_policy_types_domain_t *d = &board->domains.ptr[i];
        governed *g = &domains[i];
        memset(g, 0, sizeof *g);
        if (!d->opps.len) return refuse(err, "domain without an OPP");
        g->opps = (uint16_t)d->opps.len;
        g->hi = g->opps - 1;
        g->freqs = array(d->opps.len, sizeof *g->freqs);
        for (size_t k = 0; k < d->opps.len; k++) g->freqs[k] = d->opps.ptr[k].freq;
        if (!found && d->cpus.len) {
            granted = (uint16_t)i;
            found = true;
        }
    }
    allocator_board_free(board);
    return found || refuse(err, "board without a domain that has CPUs");
}

void exports_allocator_apps(allocator_list_app_t *apps) { keep_targets(apps); }

void exports_allocator_limits(allocator_list_opp_range_t *opps) {
    for (size_t i = 0; i < domain_count && i < opps->len; i++) {
        governed *g = &domains[i];
        uint16_t hi = opps->ptr[i].hi, lo = opps->ptr[i].lo;
        g->hi = hi < g->opps ? hi : g->opps - 1;
        g->lo = lo < g->hi ? lo : g->hi;
    }
    allocator_list_opp_range_free(opps);
}

static uint16_t clamp(uint16_t opp, uint16_t lo, uint16_t hi) { return opp < lo ? lo : opp > hi ? hi : opp; }

/* The highest allowed OPP at or below f (CPUFREQ_RELATION_H). */
static uint16_t at_most(const governed *g, uint64_t f) {
    uint16_t opp = g->hi;
    while (opp > g->lo && g->freqs[opp] > f) opp--;
    return opp;
}

/* The lowest allowed OPP at or above f (CPUFREQ_RELATION_L). */
static uint16_t at_least(const governed *g, uint64_t f) {
    uint16_t opp = g->lo;
    while (opp < g->hi && g->freqs[opp] < f) opp++;
    return opp;
}

static void sample(governed *g, uint32_t load, uint64_t current) {
    uint64_t min = g->freqs[g->lo], max = g->freqs[g->hi];
    if (g->requested > max || g->requested < min) /* the limits changed meanwhile */
        g->requested = current < min ? min : current > max ? max : current;
    uint64_t step = max / 100 * FREQ_STEP + max % 100 * FREQ_STEP / 100;
    if (!step) step = FREQ_STEP;
    if (load > UP_THRESHOLD && g->requested != max) {
        g->requested = max - g->requested < step ? max : g->requested + step;
        g->ask = at_most(g, g->requested);
        g->asked = true;
    } else if (load < DOWN_THRESHOLD && g->requested != min) {
        g->requested = g->requested - min < step ? min : g->requested - step;
        g->ask = at_least(g, g->requested);
        g->asked = true;
    }
}

static allocator_option_u16_t decide(governed *g, const tandem_policy_types_domain_sample_t *seen) {
    allocator_option_u16_t nothing = {0};
    /* What was not measured decides nothing. */
    if (!seen->util.is_some || !seen->opp.is_some || seen->opp.val >= g->opps) return nothing;
    uint32_t util = seen->util.val < 1024 ? seen->util.val : 1024;
    sample(g, util * 100 / 1024, g->freqs[seen->opp.val]);
    uint16_t opp = g->asked ? g->ask : seen->opp.val;
    return (allocator_option_u16_t){.is_some = true, .val = clamp(opp, g->lo, g->hi)};
}

void exports_allocator_decide(allocator_snapshot_t *seen, allocator_allocation_t *ret) {
    ret->domains.len = domain_count;
    ret->domains.ptr = array(domain_count, sizeof *ret->domains.ptr);
    for (size_t i = 0; i < domain_count; i++) {
        memset(&ret->domains.ptr[i], 0, sizeof *ret->domains.ptr);
        if (i < seen->domains.len) ret->domains.ptr[i].ask = decide(&domains[i], &seen->domains.ptr[i]);
    }
    ret->grants.len = app_count;
    ret->grants.ptr = array(app_count, sizeof *ret->grants.ptr);
    for (size_t i = 0; i < app_count; i++) {
        ret->grants.ptr[i].is_some = true;
        ret->grants.ptr[i].val =
            (tandem_policy_types_grant_t){.domain = granted, .weight = 100, .target = targets[i]};
    }
    allocator_snapshot_free(seen);
}
