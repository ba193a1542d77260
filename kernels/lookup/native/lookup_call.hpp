// What crosses the C ABI of the look-up. Mirrored by kernels/lookup/native_backend.py.
#pragma once

#include <cstdint>

struct LookupCall {
    int64_t struct_bytes;         // sizeof(LookupCall) as the caller knows it: refuses a library of another version
    int64_t num_wanted;           // M
    int64_t num_rows;             // V
    const uint64_t* wanted;       // [M]
    const uint64_t* sorted;       // [V], ascending, without duplicates
    const int32_t* bucket_start;  // [2^(64 - shift) + 1] first row of each bucket of leading bits, then V
    int32_t* row;                 // [M] out
    int32_t shift;                // 1..63: the bits of a hash below its bucket
    int32_t level;
};
