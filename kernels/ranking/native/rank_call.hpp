// What crosses the C ABI of stage 2, and what is prepared once per call. Mirrored by kernels/ranking/native_backend.py.
#pragma once

#include <cstdint>
#include <vector>

struct RankCall {
    int64_t struct_bytes;  // sizeof(RankCall) as the caller knows it: refuses a library of another version
    int64_t num_targets, num_kept, num_extra, hidden1, hidden2;
    int64_t width[3];            // Ri, Rc, Rp
    const void* table[3];        // item, category, recency; f32, or bf16 where bf16 = 1
    const int32_t* behavior[3];  // [L] table rows of each behavior
    const int32_t* target[2];    // [N] item and category rows
    const int32_t* index;        // [N, K], -1 for none
    const float* score;          // [N, K]
    const float* extra;          // [N, E]
    const float *w1, *b1, *w2, *b2, *w3;
    float* probability;  // [N] out
    float* mass;         // [N] out
    float a1, a2, b3;
    int32_t bf16, level, num_threads;
};

// The target's recency row is the same for every target, so its part of the first layer is a constant, and h_recency meets two rows of
// w1 (its own, and the product's times that constant) that add up to one: 2 Rp of the F features disappear.
// Order of the features left: [u_item u_category | h_item h_category h_recency | (u * h)_item (u * h)_category | mass | extra].
struct RankPlan {
    int64_t features;
    std::vector<const float*> w1_row;  // [features] rows of H1
    std::vector<const float*> w2_row;  // [H1] rows of H2
    std::vector<float> folded;         // [Rp, H1]
    std::vector<float> b1;             // [H1]
};

// Targets are processed in blocks whose features stay in the second-level cache beside w1.
constexpr int64_t kBlock = 32;
constexpr int64_t kAlign = 16;

inline int64_t padded(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

inline int64_t scratch_floats(const RankCall& c, const RankPlan& plan) {
    const int64_t kept = padded(c.num_kept);
    return kBlock * (padded(plan.features) + padded(c.hidden1) + padded(c.hidden2)) + 2 * 4 * kept + kAlign;
}

using RankLevel = void (*)(const RankCall&, const RankPlan&, int64_t first, int64_t last, float* scratch);
void rank_portable(const RankCall&, const RankPlan&, int64_t first, int64_t last, float* scratch);
#if defined(__x86_64__)
void rank_avx2(const RankCall&, const RankPlan&, int64_t first, int64_t last, float* scratch);
void rank_avx512(const RankCall&, const RankPlan&, int64_t first, int64_t last, float* scratch);
#endif
