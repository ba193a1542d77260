// What crosses the C ABI of stage 2. Mirrored by kernels/ranking/native_backend.py; the packing is kernels/ranking/prepared_head.py.
#pragma once

#include <cstdint>

struct RankCall {
    int64_t struct_bytes;  // sizeof(RankCall) as the caller knows it: refuses a library of another version
    int64_t num_targets, num_kept, num_extra, num_binned, num_thresholds;
    int64_t features, hidden1, hidden2;  // inputs and outputs of the first layer, outputs of the second
    int64_t width[3];                    // Ri, Rc, Rp
    const void* table[3];                // item, category, recency; f32, or bf16 where bf16 = 1
    const int32_t* behavior[3];          // [L] table rows of each behavior
    const int32_t* target[2];            // [N] item and category rows
    const int32_t* index;                // [N, K], -1 for none
    const float* score;                  // [N, K]
    const float* extra;                  // [N, E]
    // Columns in groups of 16, zeros after the last: w [group][input][16], b [group][16]; all at multiples of 64 bytes.
    const float *w1, *b1, *w2, *b2, *w3;
    // Extra inputs read through bins (num_binned of them, or 0): [E, T] ascending thresholds, infinite after the last, and
    // [E, T + 1, 2, hidden1 padded] of each bin what the first layer gains at the bin's first threshold, and by unit beyond it.
    const float *binned, *thresholds, *steps;
    float* probability;  // [N] out
    float* mass;         // [N] out
    float a1, a2, b3;
    int32_t bf16, level, num_threads;
};

constexpr int64_t kGroup = 16;
// Targets are processed in blocks whose features stay in the second-level cache beside a panel of w1.
constexpr int64_t kBlock = 32;

static inline int64_t padded(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

static inline int64_t scratch_floats(const RankCall& c) {
    const int64_t binned = c.num_binned == 0 ? 0 : kBlock * padded(c.hidden1) + padded(c.num_binned) * 4;
    return kBlock * (padded(c.features) + padded(c.hidden1) + padded(c.hidden2)) + 2 * 4 * padded(c.num_kept) + binned;
}

using RankLevel = void (*)(const RankCall&, int64_t first, int64_t last, float* scratch);
void rank_portable(const RankCall&, int64_t first, int64_t last, float* scratch);
#if defined(__x86_64__)
void rank_avx2(const RankCall&, int64_t first, int64_t last, float* scratch);
void rank_avx512(const RankCall&, int64_t first, int64_t last, float* scratch);
#endif
