// What crosses the C ABI of the candidates' rows. Mirrored by kernels/candidates/native_backend.py.
#pragma once

#include <cstdint>

#include "../../lookup/native/lookup_call.hpp"

// `HashIndex` of kernels/lookup/hash_index.py.
struct IndexedHashes {
    int64_t num_rows, rows_a_stretch, shift;
    const uint64_t* sorted;
    const Stretch* stretch;
};

// Of one model. Row I of the columns is the item that nobody knows.
struct CatalogueColumns {
    IndexedHashes index;
    int64_t width[2];             // of the rows of items and of categories
    const int32_t* item_row;      // [I + 1] of table[0]
    const int32_t* category;      // [I + 1] 0..C - 1
    const int32_t* category_row;  // [C] of table[1]
    const float* table[2];
    float scale;
};

// Of one user.
struct HistoryColumns {
    IndexedHashes index;
    const int32_t* category_record;  // [C] -1: never seen
};

struct CandidatesCall {
    int64_t struct_bytes;  // of all three as the caller knows them: refuses a library of another version
    int64_t num_candidates;
    const uint64_t* hash;  // [N]
    int32_t* column;       // [5, N] out: place, item row, category row, place in the history's index, category's record
    float* attn;           // [N, width[0] + width[1]] out
    int64_t level;
};

struct OccurrencesCall {
    int64_t struct_bytes;
    int64_t num_candidates;
    int64_t first;            // taken from positions
    int64_t room;             // positions that `index` has room for
    const int64_t* start;     // [D + 1]
    const int32_t* position;  // [P]
    const int32_t* indexed;   // [N] -1: nowhere
    int64_t* start_of;        // [N + 1] out
    int32_t* index;           // [room] out, written only where all find room
};
