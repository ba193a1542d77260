// The C ABI of stage 2: choose the level, prepare the plan, share the targets among threads.
#include "rank_call.hpp"

#include <functional>
#include <new>
#include <system_error>
#include <thread>

#include "cpu_level.hpp"

namespace {

// Fewer targets than this are not worth a thread (about 20 microseconds to start).
constexpr int64_t kTargetsPerThread = 64;

enum Status : int { kDone = 0, kWrongVersion = 1, kNoSuchLevel = 2, kOutOfMemory = 3 };

RankLevel level_of(int32_t level) {
    if (!cpu_runs(level)) return nullptr;
#if defined(__x86_64__)
    // avx512-vnni adds only integer products, which ranking has no use for.
    if (level >= kAvx512) return rank_avx512;
    if (level == kAvx2) return rank_avx2;
#endif
    return rank_portable;
}

float table_value(const RankCall& c, int t, int64_t at) {
    if (!c.bf16) return static_cast<const float*>(c.table[t])[at];
    union { uint32_t bits; float value; } wide;
    wide.bits = uint32_t(static_cast<const uint16_t*>(c.table[t])[at]) << 16;
    return wide.value;
}

RankPlan plan_of(const RankCall& c) {
    const int64_t own = c.width[0] + c.width[1], recency = c.width[2], width = own + recency, columns = c.hidden1;
    RankPlan plan;
    plan.features = 3 * own + recency + 1 + c.num_extra;
    plan.b1.assign(c.b1, c.b1 + columns);
    plan.folded.resize(size_t(recency * columns));
    for (int64_t r = 0; r < recency; ++r) {
        const float u = table_value(c, 2, r);
        const float *of_u = c.w1 + (own + r) * columns, *of_h = of_u + width * columns, *of_product = of_h + width * columns;
        float* folded = plan.folded.data() + r * columns;
        for (int64_t j = 0; j < columns; ++j) {
            plan.b1[size_t(j)] += u * of_u[j];
            folded[j] = of_h[j] + u * of_product[j];
        }
    }
    plan.w1_row.reserve(size_t(plan.features));
    const auto rows = [&plan, columns](const float* first, int64_t count) {
        for (int64_t f = 0; f < count; ++f) plan.w1_row.push_back(first + f * columns);
    };
    rows(c.w1, own);
    rows(c.w1 + width * columns, own);
    rows(plan.folded.data(), recency);
    rows(c.w1 + 2 * width * columns, own);
    rows(c.w1 + 3 * width * columns, 1 + c.num_extra);
    for (int64_t f = 0; f < c.hidden1; ++f) plan.w2_row.push_back(c.w2 + f * c.hidden2);
    return plan;
}

// Kept between calls of a thread: fresh pages cost more than the pooling of a small call.
float* scratch_of(int64_t floats) {
    static thread_local std::vector<float> arena;
    if (int64_t(arena.size()) < floats) arena.resize(size_t(floats));
    return arena.data();
}

void run(const RankCall& c, const RankPlan& plan, RankLevel level) {
    int64_t parts = c.num_targets / kTargetsPerThread;
    parts = parts < 1 ? 1 : parts > c.num_threads ? c.num_threads : parts;
    const int64_t floats = scratch_floats(c, plan);
    // Allocated here, where a failure can still be reported.
    std::vector<float> arenas(size_t((parts - 1) * floats));
    float* own = scratch_of(floats);
    std::vector<std::thread> threads;
    threads.reserve(size_t(parts - 1));
    int64_t first = 0;
    for (int64_t part = 0; part + 1 < parts; ++part) {
        const int64_t last = c.num_targets * (part + 1) / parts;
        try {
            threads.emplace_back(level, std::cref(c), std::cref(plan), first, last, arenas.data() + part * floats);
        } catch (const std::system_error&) {
            break;  // no thread to be had: this one does the rest
        }
        first = last;
    }
    level(c, plan, first, c.num_targets, own);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

// Fills call->probability and call->mass. The caller has checked every length and index.
DARE_EXPORT int dare_rank(const RankCall* call) {
    if (call->struct_bytes != int64_t(sizeof(RankCall))) return kWrongVersion;
    const RankLevel level = level_of(call->level);
    if (level == nullptr) return kNoSuchLevel;
    if (call->num_targets == 0) return kDone;
    try {
        run(*call, plan_of(*call), level);
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
    return kDone;
}
