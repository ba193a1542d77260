// Equal rows, as of what was bought again: which of them share one slot.
#include <cstring>
#include <vector>

#include "search_call.hpp"

namespace {

constexpr uint64_t kMix = 0x9e3779b97f4a7c15u;

uint64_t word_at(const char* bytes, int64_t at, int64_t end) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, size_t(end - at < 8 ? end - at : 8));
    return word;
}

// Four chains, as one would wait for each product.
uint64_t hash_of(const float* row, int64_t width) {
    const char* const bytes = reinterpret_cast<const char*>(row);
    const int64_t end = 4 * width;
    uint64_t chain[4] = {1, 2, 3, 4};
    int64_t at = 0;
    for (; at + 32 <= end; at += 32)
        for (int i = 0; i < 4; ++i) {
            uint64_t word;
            std::memcpy(&word, bytes + at + 8 * i, 8);
            chain[i] = (chain[i] ^ word) * kMix;
            chain[i] ^= chain[i] >> 32;
        }
    for (int i = 0; at < end; at += 8, ++i) chain[i] = (chain[i] ^ word_at(bytes, at, end)) * kMix;
    uint64_t hash = 0;
    for (const uint64_t one : chain) {
        hash = (hash ^ one) * kMix;
        hash ^= hash >> 29;
    }
    return hash;
}

// The newest row of a slot, or -1; four bits less than all of its hash, and how many rows it holds, less one.
struct Seen {
    int32_t row;
    uint32_t hash : 28, more : 4;
};
static_assert(kMostEqual == 16);

}  // namespace

int64_t find_equal(const PrepareCall& call) {
    const int64_t n = call.length, width = call.width;
    if (call.category || n > kMostMerged) return n;
    const int64_t most = n - n / kMergedShare;
    int64_t size = 1, slots = 0;
    while (size < n + n / 4) size *= 2;
    std::vector<Seen> table(size_t(size), Seen{-1, 0, 0});
    for (int64_t i = n - 1; i >= 0; --i) {
        const float* const key = call.key + i * width;
        const uint64_t hash = hash_of(key, width);
        const uint32_t mark = uint32_t(hash >> 36);
        for (int64_t at = int64_t(hash) & (size - 1);; at = (at + 1) & (size - 1)) {
            Seen& seen = table[size_t(at)];
            if (seen.row >= 0 && (seen.hash != mark || std::memcmp(call.key + seen.row * width, key, size_t(4 * width)) != 0)) continue;
            if (seen.row < 0 || seen.more == kMostEqual - 1) {
                if (++slots > most) return n;
                seen = Seen{int32_t(i), mark, 0};
            } else {
                ++seen.more;
            }
            call.newest[i] = seen.row;
            break;
        }
    }
    return slots;
}
