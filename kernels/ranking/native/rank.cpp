// The C ABI of stage 2: choose the level, share the targets among threads.
#include "rank_call.hpp"

#include <functional>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

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

float* aligned(float* p) { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t(63)); }

// Kept between calls of a thread: fresh pages cost more than the pooling of a small call.
float* scratch_of(int64_t floats) {
    static thread_local std::vector<float> arena;
    if (int64_t(arena.size()) < floats + kGroup) arena.resize(size_t(floats + kGroup));
    return aligned(arena.data());
}

void run(const RankCall& c, RankLevel level) {
    int64_t parts = c.num_targets / kTargetsPerThread;
    parts = parts < 1 ? 1 : parts > c.num_threads ? c.num_threads : parts;
    const int64_t floats = scratch_floats(c);
    // Allocated here, where a failure can still be reported.
    std::vector<float> arenas(size_t((parts - 1) * floats + kGroup));
    float* own = scratch_of(floats);
    std::vector<std::thread> threads;
    threads.reserve(size_t(parts - 1));
    int64_t first = 0;
    for (int64_t part = 0; part + 1 < parts; ++part) {
        const int64_t last = c.num_targets * (part + 1) / parts;
        try {
            threads.emplace_back(level, std::cref(c), first, last, aligned(arenas.data()) + part * floats);
        } catch (const std::system_error&) {
            break;  // no thread to be had: this one does the rest
        }
        first = last;
    }
    level(c, first, c.num_targets, own);
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
        run(*call, level);
    } catch (const std::bad_alloc&) {
        return kOutOfMemory;
    }
    return kDone;
}
