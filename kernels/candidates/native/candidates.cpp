// From hashes of candidates to all that the stages read about them, in one pass; every row is asked for before it is needed.
#include "candidates_call.hpp"

#include <algorithm>
#include <cstring>

#include "cpu_level.hpp"

namespace {

constexpr int64_t kAhead = 16;

void find(const IndexedHashes& index, const CandidatesCall& c, int32_t* row) {
    if (index.num_rows == 0) return void(std::fill_n(row, c.num_candidates, -1));
    find_rows({int64_t(sizeof(LookupCall)), c.num_candidates, index.num_rows, index.rows_a_stretch, c.hash, index.sorted, index.stretch, row,
               int32_t(index.shift), int32_t(c.level), 1});
}

void scaled(const float* from, int64_t width, float scale, float* to) {
    for (int64_t d = 0; d < width; ++d) to[d] = from[d] * scale;
}

}  // namespace

// Fills call->column and call->attn. The caller has checked that all rows lie in their tables.
DARE_EXPORT int dare_candidates(const CatalogueColumns* catalogue, const HistoryColumns* history, const CandidatesCall* call) {
    const CandidatesCall& c = *call;
    if (c.struct_bytes != int64_t(sizeof(CatalogueColumns) + sizeof(HistoryColumns) + sizeof(CandidatesCall))) return 1;
    if (!cpu_runs(int32_t(c.level))) return 2;
    const int64_t count = c.num_candidates, unknown = catalogue->index.num_rows, *width = catalogue->width;
    int32_t *place = c.column, *item_row = place + count, *category_row = item_row + count, *record = category_row + count;
    int32_t* category_record = record + count;
    find(catalogue->index, c, place);
    find(history->index, c, record);
    for (int64_t i = -kAhead; i < count; ++i) {
        if (i + kAhead < count) {
            const int64_t next = place[i + kAhead] < 0 ? unknown : place[i + kAhead];
            __builtin_prefetch(catalogue->item_row + next);
            __builtin_prefetch(catalogue->category + next);
        }
        if (i < 0) continue;
        const int64_t at = place[i] < 0 ? unknown : place[i];
        const int32_t category = catalogue->category[at];
        item_row[i] = catalogue->item_row[at];
        category_row[i] = catalogue->category_row[category];
        category_record[i] = history->category_record[category];
        for (int64_t d = 0; d < width[0]; d += 16) __builtin_prefetch(catalogue->table[0] + item_row[i] * width[0] + d);
    }
    for (int64_t i = 0; i < count; ++i) {
        float* attn = c.attn + i * (width[0] + width[1]);
        scaled(catalogue->table[0] + item_row[i] * width[0], width[0], catalogue->scale, attn);
        scaled(catalogue->table[1] + category_row[i] * width[1], width[1], catalogue->scale, attn + width[0]);
    }
    return 0;
}

// Fills call->start_of, and call->index where all positions find room. The caller has checked that all places lie in `start`, and where
// that leads to.
DARE_EXPORT int dare_occurrences(const OccurrencesCall* call) {
    const OccurrencesCall& c = *call;
    if (c.struct_bytes != int64_t(sizeof(OccurrencesCall))) return 1;
    int64_t total = 0;
    for (int64_t i = 0; i < c.num_candidates; ++i) {
        c.start_of[i] = total;
        if (c.indexed[i] >= 0) total += c.start[c.indexed[i] + 1] - c.start[c.indexed[i]];
    }
    c.start_of[c.num_candidates] = total;
    if (total > c.room) return 0;
    int32_t* to = c.index;
    for (int64_t i = 0; i < c.num_candidates; ++i) {
        if (c.indexed[i] < 0) continue;
        for (int64_t p = c.start[c.indexed[i]]; p < c.start[c.indexed[i] + 1]; ++p) *to++ = c.position[p] - int32_t(c.first);
    }
    return 0;
}
