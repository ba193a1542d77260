// Stage 1: what Python passes, the prepared keys, and what one call shares between its threads. See ../README.md.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

// `SearchCall` of ../native_backend.py, field for field. Optional pointers are null. The caller has checked shapes and indices.
struct SearchCall {
    int64_t struct_bytes, num_targets, length, width, kept, num_categories;
    int64_t hidden;                // rows of `core` before the first of `key`: gone, never read
    const float* target;           // [N, A]
    const float* key;              // [L, A], rows oldest first
    const void* core;              // PreparedKeys of `hidden` rows and the first of `key`, or null: fp32 only
    const float* bias;             // [L]
    const uint8_t* valid;          // [L]
    const int32_t* category;       // [L], with category_score
    const float* category_score;   // [N, C]
    const int64_t* bonus_start;    // [N + 1]
    const int32_t* bonus_index;    // [M]
    int32_t* index;                // [N, K], to be filled
    float* score;                  // [N, K], to be filled
    float bonus_value;
    int32_t level, num_threads;
};

// Prepares keys: with `core` null it sets `slots`, `newest`, `core_bytes` and `body_bytes`; else, given these, it fills both, which are aligned to
// 64 bytes. With `older`, a form without categories, it adds the next `length` rows, a multiple of kBlock, of which `key` is the first, to the
// body of that form.
struct PrepareCall {
    int64_t struct_bytes, length, width, slots, core_bytes, body_bytes;
    const float* key;
    const int32_t* category;  // or null
    const void* older;        // or null
    int32_t* newest;          // [L]: the newest row of each row's slot; of no use where there are as many slots as rows
    void *core, *body;
    int32_t level, reserved;
};

// kPrepareAnew: the older form has no room for the rows, or its scales do not suit them.
enum SearchStatus : int { kDone = 0, kWrongVersion = 1, kNoSuchLevel = 2, kOutOfMemory = 3, kTooWide = 4, kPrepareAnew = 5 };

// 16 slots make a group, 16 groups a block. Slot s of group g holds row `row[16 g + s]`.
constexpr int64_t kGroup = 16, kBlock = 256;
constexpr int64_t kMostOutliers = 128;
// Rows of equal keys share a slot, so many at the most, where that saves one slot in kMergedShare.
constexpr int64_t kMostEqual = 16, kMergedShare = 3;
constexpr int64_t kMostMerged = int64_t(1) << 26;  // rows: `equal` has five bits for how many
// Wider keys are searched in fp32: their integer dots could meet the values that stand for "not valid".
constexpr int64_t kWidest = 2048;

// The arrays are in a body, which newer forms share: they add blocks where this one ends. Offsets in bytes from the body's start.
struct PreparedKeys {
    int64_t length, width, quads, groups, blocks, distinct, outliers;
    int64_t room;         // blocks that the body has memory for
    int64_t merged;       // entries of `member`; 0: each row has a slot of its own
    char* body;
    double residue_norm;  // max over rows of |x - a|: a the integers, x = key / scale
    double integer_norm;  // max over rows of |a|
    double key_norm;      // at least max over rows of |key|
    double key_most;      // max |key[i][d]|
    float residue_most;   // the squares of the first two, as they were measured
    int32_t integer_most;
    float lift;           // keys are multiplied by it, then by the inverse scale
    int64_t scale;        // double [4 quads]
    int64_t inverse;      // float [4 quads]
    int64_t blocked;      // u8 [blocks][16 slots][quads][16 groups][4]: a + 128, for the pass over everything
    int64_t grouped;      // u8 [groups][quads][16 slots][4]: the same, for one group
    int64_t row;          // i32 [blocks][16 groups][16 slots]: the newest of its rows; a slot without repeats another of its group
    int64_t own;          // u16 [16 blocks]: bit s where slot s has a row of its own
    int64_t category;     // i32 [distinct]: the ids, ascending; group by group they never fall
    int64_t group_place;  // i32 [16 blocks]: place of the group's category in `category`
    int64_t equal;        // i32 [room for rows], where merged: of the newest row of several in a slot 32 first + count of them in `member`, else 0
    int64_t member;       // i32 [merged]: the rows of these slots, newest first
    int64_t newest;       // i32 [room for rows], where merged: the newest row of each row's slot
    int32_t outlier[kMostOutliers];  // rows that are in no group

    template <class T>
    const T* at(int64_t offset) const { return reinterpret_cast<const T*>(body + offset); }
    template <class T>
    T* at(int64_t offset) { return reinterpret_cast<T*>(body + offset); }
};

// What the threads of one call share; read-only but for `next`.
struct SearchPlan {
    const SearchCall* call;
    const PreparedKeys* core;       // null: fp32 only
    const float* bias_L;            // [L]: the bias, -inf where not valid; null: plain. Before it the hidden rows of `core`, -inf
    const float* best_L;            // the same, of the newest row of a slot the highest of its rows; bias_L where not merged
    const float* bias_member;       // the bias of each of `member`; null: plain
    const float* bias_blocked;      // best_L for the slots of `core`, as `blocked` and as `grouped` are ordered; null: plain
    const float* bias_grouped;
    const float* extra_wide;        // rows outside `core`: [groups][A][16]
    const int32_t* extra_row;       // [16 groups], -1 beyond the last
    const float* extra_bias;        // [16 groups], -inf beyond the last
    const int32_t* extra_category;  // [16 groups]; null: no category scores
    const int32_t* order;           // [N]: the sequence in which targets are searched
    int64_t extra_groups, task;     // a multiple of 4; targets a task
    double bias_most;               // max |bias|
    bool first_pass_only;           // to be measured: the maxima are found and left
    float key_limit;                // of a key's magnitude: up to it no dot can overflow
    std::atomic<int64_t>* next;
    std::atomic<bool>* overflow;    // set where a key is beyond the limit: the answer is not to be used
    std::atomic<bool>* no_memory;   // set where a thread ran out of memory
};

struct SearchLevel {
    // Searches tasks of targets until none is left.
    void (*search)(const SearchPlan&);
    // Rows key[row[i]] (row -1: zeros) as [groups][A][16]. Returns the largest magnitude.
    float (*widen)(const float* key, const int32_t* row, int64_t groups, int64_t width, float* wide);
    // size_L[i] = |scale key_i|^2, for the length rounded up to 16.
    void (*measure)(const float* key, int64_t length, int64_t width, float scale, float* size_L);
    // Quantises the rows that `row` names, from block `first` on, into `grouped` and `blocked`; row `first_row` is `key`. Raises the largest
    // residue and integer norms.
    void (*quantise)(PreparedKeys&, const float* key, int64_t first_row, int64_t first);
    // The squares of |x - a| and |a| of each of kBlock rows, were they quantised.
    void (*try_block)(const PreparedKeys&, const float* key, float* residue, int32_t* integer);
    // The value of each slot's row, in both orders.
    void (*spread)(const PreparedKeys&, const float* value_L, float* grouped, float* blocked);
};

extern const SearchLevel kSearchScalar, kSearchAvx2, kSearchAvx512, kSearchAvx512Vnni;

// Searches in float64 without vectors: for magnitudes whose dots overflow fp32.
void search_wide_range(const SearchCall&);
// Sets `newest`; returns the slots: as many as rows where they are not to be merged.
int64_t find_equal(const PrepareCall&);
int64_t prepared_bytes(const PrepareCall&);
void prepare_keys(const PrepareCall&, const SearchLevel&);
SearchStatus extend_keys(const PrepareCall&, const SearchLevel&);

// Runs `search` on this thread and on up to `helpers` others that are idle. Out of memory sets plan.no_memory.
void run_shared(void (*search)(const SearchPlan&), const SearchPlan&, int64_t helpers);

// Memory of this thread that lives between calls: fresh pages cost more than a small search. Throws std::bad_alloc.
struct Arena {
    char* data = nullptr;
    size_t size = 0;
    ~Arena();
    void reserve(size_t bytes);
};
