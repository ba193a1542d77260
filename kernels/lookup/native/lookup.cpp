// Sorted 64-bit hashes to their positions: one bucket look-up and an interpolation, then one window of 16 hashes compared at once.
// A look-up is one read that misses the caches; the reads of a group are all on their way before the first is needed.
#include "lookup_call.hpp"

#include <algorithm>

#include "cpu_level.hpp"

namespace {

// Look-ups whose reads are on their way: enough to keep the memory busy, few enough for the buffers of a core.
constexpr int64_t kAhead = 64;
constexpr int64_t kWindow = 16;
constexpr int64_t kLine = 8;  // hashes of a cache line

int32_t search_bucket(const LookupCall& c, uint64_t wanted) {
    const uint64_t bucket = wanted >> c.shift;
    const uint64_t* end = c.sorted + c.bucket_start[bucket + 1];
    const uint64_t* place = std::lower_bound(c.sorted + c.bucket_start[bucket], end, wanted);
    return place != end && *place == wanted ? int32_t(place - c.sorted) : -1;
}

// Start of the window that most likely holds `wanted`: hashes are spread evenly within a bucket. A window is two whole cache lines.
inline int64_t window_of(const LookupCall& c, int64_t lead, uint64_t wanted) {
    const uint64_t bucket = wanted >> c.shift, low = wanted << (64 - c.shift);
    const int64_t start = c.bucket_start[bucket], count = c.bucket_start[bucket + 1] - start;
    const int64_t guess = start + int64_t((low >> 32) * uint64_t(count) >> 32);
    const int64_t first = ((guess - lead - kWindow / 4) & -kLine) + lead;
    return std::max<int64_t>(0, std::min(first, c.num_rows - kWindow));
}

inline int32_t settle(const LookupCall& c, uint64_t wanted, int64_t first, uint32_t equal) {
    if (equal != 0) return int32_t(first) + __builtin_ctz(equal);
    const bool absent = c.sorted[first] < wanted && wanted < c.sorted[first + kWindow - 1];
    return absent ? -1 : search_bucket(c, wanted);
}

inline uint32_t equal_portable(const uint64_t* window, uint64_t wanted) {
    uint32_t equal = 0;
    for (int i = 0; i < kWindow; ++i) equal |= uint32_t(window[i] == wanted) << i;
    return equal;
}

#if defined(__x86_64__)
}  // namespace
#include <immintrin.h>
namespace {
__attribute__((target("avx2"))) inline uint32_t equal_avx2(const uint64_t* window, uint64_t wanted) {
    const __m256i all = _mm256_set1_epi64x(int64_t(wanted));
    uint32_t equal = 0;
    for (int i = 0; i < kWindow; i += 4) {
        const __m256i part = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(window + i));
        equal |= uint32_t(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(part, all)))) << i;
    }
    return equal;
}

__attribute__((target("avx512f"))) inline uint32_t equal_avx512(const uint64_t* window, uint64_t wanted) {
    const __m512i all = _mm512_set1_epi64(int64_t(wanted));
    return uint32_t(_mm512_cmpeq_epi64_mask(_mm512_loadu_si512(window), all)) |
           uint32_t(_mm512_cmpeq_epi64_mask(_mm512_loadu_si512(window + 8), all)) << 8;
}
#endif

#define LOOKUP(NAME, TARGET, EQUAL)                                                                                  \
    TARGET void NAME(const LookupCall& c) {                                                                          \
        int64_t window[kAhead];                                                                                      \
        const int64_t lead = -int64_t(reinterpret_cast<uintptr_t>(c.sorted) / sizeof(uint64_t)) & (kLine - 1);       \
        for (int64_t i = 0; i < c.num_wanted + kAhead; ++i) {                                                        \
            int64_t& slot = window[i % kAhead];                                                                      \
            if (i >= kAhead) {                                                                                       \
                const uint64_t wanted = c.wanted[i - kAhead];                                                        \
                c.row[i - kAhead] = settle(c, wanted, slot, EQUAL(c.sorted + slot, wanted));                         \
            }                                                                                                        \
            if (i < c.num_wanted) {                                                                                  \
                slot = window_of(c, lead, c.wanted[i]);                                                              \
                __builtin_prefetch(c.sorted + slot);                                                                 \
                __builtin_prefetch(c.sorted + slot + kWindow - 1);                                                   \
            }                                                                                                        \
        }                                                                                                            \
    }

LOOKUP(lookup_portable, , equal_portable)
#if defined(__x86_64__)
LOOKUP(lookup_avx2, __attribute__((target("avx2"))), equal_avx2)
LOOKUP(lookup_avx512, __attribute__((target("avx512f"))), equal_avx512)
#endif

}  // namespace

// Fills call->row. The caller has checked the order of the hashes and the bucket starts.
DARE_EXPORT int dare_lookup(const LookupCall* call) {
    const LookupCall& c = *call;
    if (c.struct_bytes != int64_t(sizeof(LookupCall))) return 1;
    if (!cpu_runs(c.level)) return 2;
    if (c.num_rows < kWindow) {
        for (int64_t i = 0; i < c.num_wanted; ++i) c.row[i] = search_bucket(c, c.wanted[i]);
        return 0;
    }
#if defined(__x86_64__)
    if (c.level >= kAvx512) return lookup_avx512(c), 0;
    if (c.level == kAvx2) return lookup_avx2(c), 0;
#endif
    return lookup_portable(c), 0;
}
