// What crosses the C ABI of stage 2. Mirrored by kernels/ranking/native_backend.py; the packing is kernels/ranking/prepared_head.py.
#pragma once

#include <cstdint>

// Of a head and its tables: what is the same in every call.
struct RankHead {
    int64_t num_extra, num_binned, num_thresholds, num_steps, num_runs;
    int64_t features, hidden1, hidden2;  // inputs and outputs of the first layer, outputs of the second
    int64_t width[3];                    // Ri, Rc, Rp
    const void* table[3];                // item, category, recency; f32, or bf16 where bf16 = 1
    const float* center;                 // [1 + E] of mass and extra, taken from them
    // Columns in groups of 16, zeros after the last: w [group][input][16], b [group][16]; all at multiples of 64 bytes.
    const float *w1, *b1, *w2, *b2, *w3;
    const float* category_base;  // [C, hidden1 padded] b1 and what a target of the category adds for it, instead of those inputs; or null
    // Extra inputs read through bins (num_binned of them, or 0): thresholds [E, T] ascending, infinite after the last, T a multiple of 16; what the
    // first layer gains where an input is at each of a row of points, steps [E, S, hidden1 padded]: below the first threshold, at each, and beyond;
    // and of each bin, which lies between two points, the first and how far the second is, bins [E, S - 1, 2].
    const float *thresholds, *steps, *bins;
    const int64_t* run_end;  // [num_runs] where runs of them end that are often the same for several targets; the first starts at 0
    float a1, a2, b3;
    int32_t bf16;
};

// Of one user's targets.
struct RankTargets {
    int64_t struct_bytes;  // sizes of both structs as the caller knows them: refuses a library of another version
    int64_t num_targets, num_kept;
    const int32_t* behavior[3];  // [L] table rows of each behavior
    const int32_t* target[2];    // [N] item and category rows
    const int32_t* index;        // [N, K], -1 for none
    const float* score;          // [N, K]
    const float* extra;          // [N, E]
    float* probability;          // [N] out
    float* mass;                 // [N] out
    int32_t level, num_threads;
};

struct RankCall : RankHead, RankTargets {};

constexpr int64_t kGroup = 16;
// Targets are processed in blocks whose features stay in the second-level cache beside a panel of w1.
constexpr int64_t kBlock = 32;

static inline int64_t padded(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

// What each thread remembers of the runs: whether a slot is filled, then of each run and slot the values and their sum. To be cleared for each call.
constexpr int64_t kSlots = 128;

static inline int64_t memo_flag_bytes(const RankCall& c) { return c.num_runs * kSlots; }

static inline int64_t memo_floats(const RankCall& c) {
    int64_t floats = memo_flag_bytes(c) / 4, first = 0;
    for (int64_t r = 0; r < c.num_runs; ++r) {
        floats += kSlots * (padded(c.run_end[r] - first) + padded(c.hidden1));
        first = c.run_end[r];
    }
    return floats;
}

// Lines of 64 bytes that the item rows of one target's kept behaviors take.
static inline int64_t lines_per_target(const RankCall& c) { return c.num_kept * ((c.width[0] * (c.bf16 ? 2 : 4) + 63) / 64); }

static inline int64_t scratch_floats(const RankCall& c) {
    return memo_floats(c) + kBlock * (padded(c.features) + 2 * padded(c.hidden1) + padded(c.hidden2)) +
           kBlock * (4 * padded(c.num_kept) + 2 * lines_per_target(c)) + 3 * padded(c.num_binned);
}

using RankLevel = void (*)(const RankCall&, int64_t first, int64_t last, float* scratch);
void rank_portable(const RankCall&, int64_t first, int64_t last, float* scratch);
#if defined(__x86_64__)
void rank_avx2(const RankCall&, int64_t first, int64_t last, float* scratch);
void rank_avx512(const RankCall&, int64_t first, int64_t last, float* scratch);
#endif
