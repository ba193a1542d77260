// What crosses the C ABI of the look-up. Mirrored by kernels/lookup/native_backend.py.
#pragma once

#include <cstdint>

constexpr int kBuckets = 59;

// The hashes whose leading bits are alike, in 59 buckets of equal width; bucket b starts about at row first + b (rows a stretch) / 59 + drift[b],
// as far as a byte can say. One cache line.
struct Stretch {
    int32_t first;               // row of the first hash, exactly
    int8_t drift[kBuckets + 1];  // of each bucket, then of the end
};
static_assert(sizeof(Stretch) == 64, "a cache line, and the last byte is used");

struct LookupCall {
    int64_t struct_bytes;     // sizeof(LookupCall) as the caller knows it: refuses a library of another version
    int64_t num_wanted;       // M
    int64_t num_rows;         // V
    int64_t rows_a_stretch;   // on average, rounded
    const uint64_t* wanted;   // [M]
    const uint64_t* sorted;   // [V], ascending, without duplicates
    const Stretch* stretch;   // [2^(64 - shift) + 1]; of the last only `first` counts, V
    int32_t* row;             // [M] out
    int32_t shift;            // 1..63: the bits of a hash below its stretch
    int32_t level;
    int64_t num_threads;
};

// What `dare_lookup` does, for what is compiled beside it.
void find_rows(const LookupCall& call);
