// What crosses the C ABI of stage 2. Mirrored by kernels/ranking/native_backend.py; the packing is kernels/ranking/prepared_head.py.
#pragma once

#include <cstdint>

// Of a head and its tables: what is the same in every call.
struct RankHead {
    int64_t num_extra, num_binned, num_steps, num_runs;
    int64_t features, hidden1, hidden2;  // inputs and outputs of the first layer, outputs of the second
    int64_t width[3];                    // Ri, Rc, Rp
    int64_t rows[3];                     // V, C, P
    const void* table[3];                // item, category, recency; f32, or bf16 where bf16 = 1
    const float* center;                 // [1 + E] of mass and extra, taken from them
    // Columns in groups of 16, zeros after the last: w [group][input][16], b [group][16]; all at multiples of 64 bytes.
    const float *w1, *b1, *w2, *b2, *w3;
    const float* category_base;  // [C, hidden1 padded] b1 and what a target of the category adds for it, instead of those inputs; or null
    // Extra inputs read through bins (num_binned of them, or 0): what the first layer gains where an input is at each of S points, steps
    // [E, S, hidden1 padded]: below the first threshold, at each, and beyond; and of each bin, which lies between two points, the first, points
    // [S - 1, E padded], ascending, infinite after the last threshold, and how far the second is, widths [S - 1, E padded].
    const float *steps, *points, *widths;
    const int32_t* input;    // [num_binned] which of a target's extra inputs these are, in the order of the tables: first those of the runs
    const int64_t* run_end;  // [num_runs] where runs of them end that are often the same for several targets; the first starts at 0
    float a1, a2, b3;
    int32_t bf16;
};

// Of one user's targets. The caller has checked shapes; `dare_rank` checks values.
struct RankTargets {
    int64_t struct_bytes;  // sizes of both structs as the caller knows them: refuses a library of another version
    int64_t num_targets, num_kept, length;
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

// What a thread remembers of a run within a call: of each slot the hash of values that came (0: none did) and which sum is theirs, from 1 on.
constexpr int64_t kSlots = 512, kSums = 256;
struct alignas(64) RunSlots {
    int32_t used;
    uint32_t tag[kSlots];
    uint16_t place[kSlots];
};

// To be cleared for each call.
static inline int64_t slots_bytes(const RankCall& c) { return c.num_runs * int64_t(sizeof(RunSlots)); }

static inline int64_t kept_floats(const RankCall& c) {
    int64_t floats = 0, first = 0;
    for (int64_t r = 0; r < c.num_runs; ++r) {
        floats += kSums * (padded(c.run_end[r] - first) + padded(c.hidden1));
        first = c.run_end[r];
    }
    return floats;
}

static inline int64_t sums_floats(const RankCall& c) {
    return slots_bytes(c) / 4 + kept_floats(c) + 4 * padded(c.num_binned) + c.num_runs * padded(c.hidden1) + 6 * padded(1 + c.num_runs + 2 * c.num_binned);
}

// Lines of 64 bytes that the item rows of one target's kept behaviors take.
static inline int64_t lines_per_target(const RankCall& c) { return c.num_kept * ((c.width[0] * (c.bf16 ? 2 : 4) + 63) / 64); }

static inline int64_t scratch_floats(const RankCall& c) {
    return sums_floats(c) + kBlock * (padded(c.features) + 2 * padded(c.hidden1) + padded(c.hidden2)) +
           kBlock * (4 * padded(c.num_kept) + 2 * lines_per_target(c));
}

using RankLevel = void (*)(const RankCall&, int64_t first, int64_t last, float* scratch);
void rank_portable(const RankCall&, int64_t first, int64_t last, float* scratch);
#if defined(__x86_64__)
void rank_avx2(const RankCall&, int64_t first, int64_t last, float* scratch);
void rank_avx512(const RankCall&, int64_t first, int64_t last, float* scratch);
#endif
