// The C ABI of stage 2: choose the level, share the targets among threads.
#include "rank_call.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "cpu_level.hpp"
#include "thread_pool.hpp"

namespace {

// Targets that a thread takes at a time: fewer are not worth waking one.
constexpr int64_t kShare = 64;

enum Status : int { kDone = 0, kWrongVersion = 1, kNoSuchLevel = 2, kOutOfMemory = 3, kUnsound = 5 };

RankLevel level_of(int32_t level) {
    if (!cpu_runs(level)) return nullptr;
#if defined(__x86_64__)
    // avx512-vnni adds only integer products, which ranking has no use for.
    if (level >= kAvx512) return rank_avx512;
    if (level == kAvx2) return rank_avx2;
#endif
    return rank_portable;
}

float* aligned(float* p) { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t(63)); }

// Kept between calls of a thread: fresh pages cost more than the pooling of a small call.
float* scratch_of(int64_t floats) {
    static thread_local std::vector<float> arena;
    if (int64_t(arena.size()) < floats + kGroup) arena.resize(size_t(floats + kGroup));
    return aligned(arena.data());
}

struct Shared {
    const RankCall* call;
    RankLevel level;
    std::atomic<int64_t> next{0};
    std::atomic<bool> no_memory{false};
};

// Takes shares of targets until none is left.
void rank_shares(void* context) {
    Shared& shared = *static_cast<Shared*>(context);
    const RankCall& c = *shared.call;
    try {
        float* scratch = scratch_of(scratch_floats(c));
        std::memset(scratch, 0, size_t(slots_bytes(c)));
        for (int64_t first; (first = shared.next.fetch_add(kShare)) < c.num_targets;)
            shared.level(c, first, std::min(first + kShare, c.num_targets), scratch);
    } catch (const std::bad_alloc&) {
        shared.no_memory = true;
    }
}

bool within(const int32_t* value, int64_t count, int32_t low, int64_t end) {
    uint32_t outside = 0;
    for (int64_t i = 0; i < count; ++i) outside |= uint32_t(value[i]) - uint32_t(low) >= uint32_t(end - low);
    return outside == 0;
}

bool finite(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000) != 0x7f800000;
}

bool all_finite(const float* value, int64_t count) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) bad |= uint32_t(!finite(value[i]));
    return bad == 0;
}

// Scores of what is not kept are never read.
bool finite_where_kept(const RankCall& c) {
    const int64_t count = c.num_targets * c.num_kept;
    if (all_finite(c.score, count)) return true;
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) bad |= uint32_t(c.index[i] >= 0 && !finite(c.score[i]));
    return bad == 0;
}

// Whether every row lies in its table and every number is finite: a fifth of the time that NumPy's extremes of the same arrays take.
bool sound(const RankCall& c) {
    bool sound = within(c.index, c.num_targets * c.num_kept, -1, c.length) && finite_where_kept(c);
    for (int t = 0; t < 3; ++t) sound = sound && within(c.behavior[t], c.length, 0, c.rows[t]);
    for (int t = 0; t < 2; ++t) sound = sound && within(c.target[t], c.num_targets, 0, c.rows[t]);
    return sound && all_finite(c.extra, c.num_targets * (c.num_binned > 0 ? c.num_binned : c.num_extra));
}

}  // namespace

// Fills targets->probability and targets->mass.
DARE_EXPORT int dare_rank(const RankHead* head, const RankTargets* targets) {
    if (targets->struct_bytes != int64_t(sizeof(RankHead) + sizeof(RankTargets))) return kWrongVersion;
    const RankCall call{*head, *targets};
    const RankLevel level = level_of(call.level);
    if (level == nullptr) return kNoSuchLevel;
    if (!sound(call)) return kUnsound;
    if (call.num_targets == 0) return kDone;
    Shared shared;
    shared.call = &call;
    shared.level = level;
    const int64_t shares = (call.num_targets + kShare - 1) / kShare;
    run_with_helpers(rank_shares, &shared, std::min<int64_t>(call.num_threads, shares) - 1);
    if (shared.no_memory) return kOutOfMemory;
    return kDone;
}
