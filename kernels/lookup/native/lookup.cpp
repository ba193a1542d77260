// Sorted 64-bit hashes to their positions: a guess within a few rows, then the eight hashes of one cache line compared at once.
// A look-up is one read that misses the caches; those of many look-ups are on their way before the first is needed. No branch depends on
// the hashes but for the few that lie beside the guessed line: these wait until the others of a batch are done.
#include "lookup_call.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu_level.hpp"
#include "thread_pool.hpp"

namespace {

constexpr int64_t kLine = 8;      // hashes of a cache line
constexpr int64_t kAhead = 32;    // look-ups whose line is on its way: enough to keep the memory busy, few enough for the buffers of a core
constexpr int64_t kEarlier = 16;  // and whose stretch is, before that
constexpr int64_t kBatch = 1024;
constexpr int64_t kPerThread = 8192;  // look-ups that a helper is worth waking for

int32_t search_stretch(const LookupCall& c, uint64_t wanted) {
    const Stretch* const stretch = c.stretch + (wanted >> c.shift);
    const uint64_t* end = c.sorted + stretch[1].first;
    const uint64_t* place = std::lower_bound(c.sorted + stretch->first, end, wanted);
    return place != end && *place == wanted ? int32_t(place - c.sorted) : -1;
}

// First row of the cache line that most likely holds `wanted`: hashes are spread evenly within a bucket. `lead`: rows before the first line.
inline int64_t line_of(const LookupCall& c, int64_t lead, uint64_t wanted) {
    const Stretch& stretch = c.stretch[wanted >> c.shift];
    const uint64_t share = (wanted << (64 - c.shift)) >> 32, bucket = share * kBuckets;  // of the stretch, of its buckets: 32 bits behind the point
    int8_t drift[2];
    std::memcpy(drift, stretch.drift + (bucket >> 32), sizeof drift);
    const int64_t between = int64_t(drift[1] - drift[0]) * int64_t(uint32_t(bucket)) >> 32;
    const int64_t guess = stretch.first + int64_t(share * uint64_t(c.rows_a_stretch) >> 32) + drift[0] + between;
    return std::max<int64_t>(0, std::min(((guess - lead) & -kLine) + lead, c.num_rows - kLine));
}

// Bit i is set where line[i] is the wanted hash.
inline uint32_t equal_portable(const uint64_t* line, uint64_t wanted) {
    uint32_t equal = 0;
    for (int i = 0; i < kLine; ++i) equal |= uint32_t(line[i] == wanted) << i;
    return equal;
}

#if defined(__x86_64__)
}  // namespace
#include <immintrin.h>
namespace {
__attribute__((target("avx2"))) inline uint32_t equal_avx2(const uint64_t* line, uint64_t wanted) {
    const __m256i all = _mm256_set1_epi64x(int64_t(wanted));
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line)), high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 4));
    return uint32_t(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(low, all)))) |
           uint32_t(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(high, all)))) << 4;
}

__attribute__((target("avx512f"))) inline uint32_t equal_avx512(const uint64_t* line, uint64_t wanted) {
    return uint32_t(_mm512_cmpeq_epi64_mask(_mm512_loadu_si512(line), _mm512_set1_epi64(int64_t(wanted))));
}
#endif

// The row of the line's hash that is equal, -1 where none is; without a branch, as which it is cannot be foreseen.
inline int32_t row_of(int64_t line, uint32_t equal) { return (int32_t(line) + __builtin_ctz(equal | 1u << kLine)) | -int32_t(equal == 0); }

// -kLine where the wanted hash is below the line, kLine where it is above, else 0.
inline int64_t beside(const uint64_t* line, uint64_t wanted) { return kLine * (int64_t(line[kLine - 1] < wanted) - int64_t(wanted < line[0])); }

// Up to kBatch look-ups.
#define LOOKUP(NAME, TARGET, EQUAL)                                                                                                  \
    TARGET void NAME(const LookupCall& c, const uint64_t* wanted, int32_t* row, int64_t count) {                                     \
        int32_t line[kBatch], left[kBatch + 1];                                                                                      \
        const int64_t lead = -int64_t(reinterpret_cast<uintptr_t>(c.sorted) / sizeof(uint64_t)) & (kLine - 1);                       \
        int64_t lefts = 0;                                                                                                           \
        for (int64_t i = -kAhead; i < count; ++i) {                                                                                  \
            if (i + kAhead + kEarlier < count) __builtin_prefetch(c.stretch + (wanted[i + kAhead + kEarlier] >> c.shift));           \
            if (i + kAhead < count) {                                                                                                \
                const int64_t first = line_of(c, lead, wanted[i + kAhead]);                                                          \
                line[i + kAhead] = int32_t(first);                                                                                   \
                __builtin_prefetch(c.sorted + first);                                                                                \
            }                                                                                                                        \
            if (i < 0) continue;                                                                                                     \
            const uint64_t* const hashes = c.sorted + line[i];                                                                       \
            row[i] = row_of(line[i], EQUAL(hashes, wanted[i]));                                                                      \
            const int64_t other = beside(hashes, wanted[i]);                                                                         \
            left[lefts] = int32_t(i);                                                                                                \
            lefts += other != 0;                                                                                                     \
            __builtin_prefetch(hashes + other);                                                                                      \
        }                                                                                                                            \
        for (int64_t k = 0; k < lefts; ++k) {                                                                                        \
            const int64_t i = left[k], way = beside(c.sorted + line[i], wanted[i]);                                                  \
            const int64_t first = std::max<int64_t>(0, std::min(line[i] + way, c.num_rows - kLine));                                 \
            row[i] = row_of(first, EQUAL(c.sorted + first, wanted[i]));                                                              \
            /* Between the two lines: absent. Further on: the guess was no good. */                                                  \
            if (__builtin_expect(beside(c.sorted + first, wanted[i]) == way, 0)) row[i] = search_stretch(c, wanted[i]);              \
        }                                                                                                                            \
    }

LOOKUP(lookup_portable, , equal_portable)
#if defined(__x86_64__)
LOOKUP(lookup_avx2, __attribute__((target("avx2"))), equal_avx2)
LOOKUP(lookup_avx512, __attribute__((target("avx512f"))), equal_avx512)
#endif

void lookup(const LookupCall& c, const uint64_t* wanted, int32_t* row, int64_t count) {
    if (c.num_rows < kLine) {
        for (int64_t i = 0; i < count; ++i) row[i] = search_stretch(c, wanted[i]);
        return;
    }
#if defined(__x86_64__)
    if (c.level >= kAvx512) return lookup_avx512(c, wanted, row, count);
    if (c.level == kAvx2) return lookup_avx2(c, wanted, row, count);
#endif
    lookup_portable(c, wanted, row, count);
}

struct Shared {
    const LookupCall* call;
    std::atomic<int64_t> next{0};
};

void lookup_batches(void* context) {
    Shared& shared = *static_cast<Shared*>(context);
    const LookupCall& c = *shared.call;
    for (;;) {
        const int64_t first = shared.next.fetch_add(kBatch, std::memory_order_relaxed);
        if (first >= c.num_wanted) return;
        lookup(c, c.wanted + first, c.row + first, std::min(kBatch, c.num_wanted - first));
    }
}

}  // namespace

void find_rows(const LookupCall& c) {
    Shared shared{&c};
    run_with_helpers(lookup_batches, &shared, std::min(c.num_threads, c.num_wanted / kPerThread) - 1);
}

// Fills call->row. The caller has checked the order of the hashes and made the stretches of them.
DARE_EXPORT int dare_lookup(const LookupCall* call) {
    if (call->struct_bytes != int64_t(sizeof(LookupCall))) return 1;
    if (!cpu_runs(call->level)) return 2;
    find_rows(*call);
    return 0;
}
