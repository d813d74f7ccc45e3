/* Routing statistics of a moec layer, from host copies of its statistics slots. C99, header only, nothing but libm; the
 * same numbers as `Statistics::of` in runtime/src/statistics.rs, which says more: the load, the kept pairs and the first
 * picks of each expert, which experts are hot and cold, the entropy as a share of `ln E`, the loss "deepseek_sequence".
 *
 * An engine copies back the buffers that the manifest's `statistics` names for its target, fills in `moec_routing` and
 * calls `moec_statistics_of`. T: tokens (in what follows those that are no padding and that hash_oob =
 * "drop" gives picks), E: experts, K: most picks of a token; a pair is a token with one expert it picked.
 */
#ifndef MOEC_STATISTICS_H
#define MOEC_STATISTICS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* What the slots hold. Pointers may be null where `tokens` is 0; `picks`, `rows`, `probability` and `z` also where the
 * layer lacks the slot. */
typedef struct moec_routing {
    uint64_t tokens;           /* T */
    uint64_t experts;          /* E, those without rows included */
    uint64_t rowless;          /* statistics.rowless: of these, so many at the end have no rows; 0 where absent */
    uint64_t top_k;            /* K, the shared ones beside the picks included */
    uint64_t joint_shared;     /* statistics.joint_shared: of these, so many at the end are no picks; 0 where absent */
    uint64_t tile_rows;        /* regimes[].tile_rows of the regime that serves T; 1 where absent */
    uint64_t rows_at_capacity; /* statistics.rows_at_capacity for this T and S; 0 where there is none */
    double capacity_factor;    /* statistics.capacity_factor as a quotient; 1.25 where there is none */
    const int32_t *load;       /* [E] slots.load */
    const int32_t *kept;       /* [E] slots.kept */
    const int32_t *real_tokens; /* [1] slots.tokens: tokens that count; null where all do */
    const int32_t *picks;      /* [T, K] slots.experts; -1: the token does not count */
    const int32_t *rows;       /* [T, K] slots.rows */
    const float *probability;  /* [probability_parts, E] slots.probability */
    uint64_t probability_parts;
    const float *z;            /* [z_parts] slots.z */
    uint64_t z_parts;
} moec_routing;

/* How a load is spread over the experts. */
typedef struct moec_health {
    double mean, variance, largest;
    uint64_t hot;  /* experts with more than the capacity factor times the mean */
    uint64_t cold; /* experts with less than a tenth of the mean */
} moec_health;

typedef struct moec_statistics {
    uint64_t pairs, kept;         /* of experts with rows, before and after the capacity */
    uint64_t rowless_pairs;       /* pairs of experts without rows */
    uint64_t dropped_pairs;       /* pairs without room */
    uint64_t dropped_tokens;      /* tokens that picked experts with rows alone and of which no pair was kept; without
                                   * `picks`, tokens that no expert chose; 0 without `rows` */
    uint64_t padded_rows;         /* rows of the grouped products' tiles that are padding */
    uint64_t rows_below_capacity; /* rows_at_capacity less the kept ones */
    double wasted_share;          /* padded rows as a share of all rows of the tiles */
    moec_health load;             /* of the pairs that picked each expert */
    /* The rest is 0 without `probability`. */
    moec_health probability;      /* of the probabilities of each expert, summed over the tokens */
    double entropy;               /* of the mean probabilities, in nats */
    double z_loss;                /* mean over the tokens of logsumexp(logits)^2 */
    double aux_switch;            /* E sum load p / T^2; aux_loss = "mixtral" is the same */
    double aux_gshard;            /* E sum first p / T^2: first picks only; 0 without `picks` */
    double aux_deepspeed_topk;    /* aux_switch / K; "megablocks" is the same, and "megatron" where neither a correction
                                   * bias nor groups have a part in the picks */
    double aux_importance;        /* variance(p) / mean(p)^2 */
} moec_statistics;

static inline double moec_share_(double part, double whole) {
    return whole > 0.0 ? part / whole : 0.0;
}

static inline uint64_t moec_count_(int32_t n) {
    return n > 0 ? (uint64_t)n : 0;
}

static inline moec_health moec_health_of_(const double *load, const int32_t *counts, uint64_t n, double capacity_factor) {
    moec_health health = {0.0, 0.0, 0.0, 0, 0};
    for (uint64_t e = 0; e < n; e++) {
        double x = load ? load[e] : counts ? (double)moec_count_(counts[e]) : 0.0;
        health.mean += x;
        if (x > health.largest) health.largest = x;
    }
    health.mean /= n ? (double)n : 1.0;
    for (uint64_t e = 0; e < n; e++) {
        double x = load ? load[e] : counts ? (double)moec_count_(counts[e]) : 0.0;
        health.variance += (x - health.mean) * (x - health.mean);
        health.hot += x > capacity_factor * health.mean;
        health.cold += x < 0.1 * health.mean;
    }
    health.variance /= n ? (double)n : 1.0;
    return health;
}

/* Fills in `out` and `importance` [E - rowless]: of each expert with rows the router's probabilities, summed over the tokens;
 * zeros without `probability`. */
static inline void moec_statistics_of(const moec_routing *routing, double *importance, moec_statistics *out) {
    const moec_statistics zeros = {0};
    const uint64_t experts = routing->experts - routing->rowless, top_k = routing->top_k ? routing->top_k : 1;
    const uint64_t picks = top_k > routing->joint_shared ? top_k - routing->joint_shared : 0;
    const uint64_t tile_rows = routing->tile_rows ? routing->tile_rows : 1;
    const uint64_t counted = routing->real_tokens ? moec_count_(routing->real_tokens[0]) : routing->tokens;
    const double tokens = counted ? (double)counted : 1.0;
    *out = zeros;
    for (uint64_t e = 0; e < experts; e++) {
        uint64_t kept = routing->kept ? moec_count_(routing->kept[e]) : 0;
        out->pairs += routing->load ? moec_count_(routing->load[e]) : 0;
        out->kept += kept;
        out->padded_rows += (kept + tile_rows - 1) / tile_rows * tile_rows - kept;
        importance[e] = 0.0;
    }
    for (uint64_t e = experts; routing->load && e < routing->experts; e++) out->rowless_pairs += moec_count_(routing->load[e]);
    out->dropped_pairs = out->pairs > out->kept ? out->pairs - out->kept : 0;
    out->wasted_share = moec_share_((double)out->padded_rows, (double)(out->padded_rows + out->kept));
    if (routing->rows_at_capacity > out->kept) out->rows_below_capacity = routing->rows_at_capacity - out->kept;
    for (uint64_t t = 0; routing->rows && t < routing->tokens; t++) {
        uint64_t kept = 0, picked = routing->picks ? 0 : 1, rowless = 0;
        for (uint64_t j = 0; j < top_k; j++) kept += routing->rows[t * top_k + j] >= 0;
        /* A pick without rows is never lost. */
        for (uint64_t j = 0; routing->picks && j < picks; j++) {
            int32_t pick = routing->picks[t * top_k + j];
            picked += pick >= 0;
            rowless += pick >= 0 && (uint64_t)pick >= experts;
        }
        out->dropped_tokens += !kept && picked && !rowless;
    }
    if (!routing->picks && routing->tokens > counted) {
        uint64_t padding = routing->tokens - counted;
        out->dropped_tokens -= padding < out->dropped_tokens ? padding : out->dropped_tokens;
    }
    out->load = moec_health_of_(NULL, routing->load, experts, routing->capacity_factor);

    if (!routing->probability) return;
    for (uint64_t part = 0; part < routing->probability_parts; part++)
        for (uint64_t e = 0; e < experts; e++) importance[e] += (double)routing->probability[part * routing->experts + e];
    out->probability = moec_health_of_(importance, NULL, experts, routing->capacity_factor);
    const double total = out->probability.mean * (double)experts;
    for (uint64_t e = 0; e < experts && total > 0.0; e++) {
        double p = importance[e] / total;
        if (p > 0.0) out->entropy -= p * log(p);
    }
    for (uint64_t part = 0; routing->z && part < routing->z_parts; part++) out->z_loss += (double)routing->z[part];
    out->z_loss /= tokens;
    for (uint64_t e = 0; routing->load && e < experts; e++)
        out->aux_switch += (double)moec_count_(routing->load[e]) * importance[e];
    for (uint64_t t = 0; routing->picks && t < routing->tokens; t++) {
        int32_t first = routing->picks[t * top_k];
        if (first >= 0 && (uint64_t)first < experts) out->aux_gshard += importance[first];
    }
    out->aux_switch *= (double)experts / (tokens * tokens);
    out->aux_gshard *= (double)experts / (tokens * tokens);
    out->aux_deepspeed_topk = out->aux_switch / (double)top_k;
    out->aux_importance = moec_share_(out->probability.variance, out->probability.mean * out->probability.mean);
}

#endif
