// Prepared keys: which rows are searched in integers, in which groups, and the scale of each dimension.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "search_call.hpp"

namespace {

// Rows more than this many times longer than the 1/64 longest are left out of the integers, whose scale they would spoil.
constexpr double kOutlierRatio = 2;
constexpr int64_t kRoomShare = 8;  // of the prepared rows, an eighth more can be added
constexpr float kLift = 1.2089258196146292e24f;  // 2^80: brings denormal keys into the range of normal ones

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The distinct ids ascending, and the place of each row's id among them.
void places(const PrepareCall& call, std::vector<int32_t>& ids, std::vector<int32_t>& place) {
    const int64_t n = call.length;
    place.assign(size_t(n), 0);
    if (call.category == nullptr) {
        ids.assign(1, 0);
        return;
    }
    const auto [low, high] = std::minmax_element(call.category, call.category + n);
    const int64_t range = int64_t(*high) - *low + 1, base = *low;
    if (range <= 8 * n + 65536) {
        std::vector<int32_t> at(size_t(range), -1);
        for (int64_t i = 0; i < n; ++i) at[size_t(call.category[i] - base)] = 0;
        for (int64_t i = 0; i < range; ++i)
            if (at[size_t(i)] == 0) at[size_t(i)] = int32_t(ids.size()), ids.push_back(int32_t(base + i));
        for (int64_t i = 0; i < n; ++i) place[size_t(i)] = at[size_t(call.category[i] - base)];
        return;
    }
    ids.assign(call.category, call.category + n);
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    for (int64_t i = 0; i < n; ++i) place[size_t(i)] = int32_t(std::lower_bound(ids.begin(), ids.end(), call.category[i]) - ids.begin());
}

// Counts the rows of each id that are in a group, and drops ids without any: the groups of a block must be neighbors in `ids`, else a
// vector cannot hold the scores of their categories. A place of a row in no group then means nothing.
std::vector<int64_t> drop_empty(std::vector<int32_t>& ids, std::vector<int32_t>& place, const std::vector<char>& out) {
    std::vector<int64_t> count(ids.size(), 0), kept_count;
    for (size_t i = 0; i < place.size(); ++i) count[size_t(place[i])] += !out[i];
    std::vector<int32_t> kept_ids, moved(ids.size(), 0);
    for (size_t p = 0; p < ids.size(); ++p) {
        if (count[p] == 0) continue;
        moved[p] = int32_t(kept_ids.size());
        kept_ids.push_back(ids[p]);
        kept_count.push_back(count[p]);
    }
    for (int32_t& p : place) p = moved[size_t(p)];
    ids.swap(kept_ids);
    return kept_count;
}

// Offsets for so many groups, and room for newer ones where there are no categories; returns the bytes of the body.
int64_t lay_out(PreparedKeys& core, const PrepareCall& call, int64_t groups, int64_t distinct) {
    const bool grows = call.category == nullptr;
    core = PreparedKeys{};
    core.length = call.length;
    core.width = call.width;
    core.quads = (call.width + 3) / 4;
    core.groups = groups;
    core.blocks = (groups + 15) / 16;
    core.room = core.blocks + (grows ? padded(call.length, kBlock) / kBlock / kRoomShare + 1 : 0);
    core.distinct = distinct;
    int64_t at = 0;
    const auto take = [&at](int64_t bytes) {
        const int64_t here = at;
        at += padded(bytes, 64);
        return here;
    };
    core.scale = take(8 * 4 * core.quads);
    core.inverse = take(4 * 4 * core.quads);
    core.blocked = take(kBlock * 4 * core.quads * core.room);
    core.grouped = take(kBlock * 4 * core.quads * core.room);
    core.row = take(4 * kBlock * core.room);
    core.own = take(2 * 16 * core.room);
    core.category = take(4 * (distinct + 32));
    core.group_place = take(4 * 16 * core.room);
    if (call.slots < call.length) {
        core.equal = take(4 * (call.length + kBlock * (core.room - core.blocks)));
        // A slot of several saves all of its rows but one.
        core.member = take(4 * 2 * (call.length - call.slots) + 64);
        core.newest = take(4 * (call.length + kBlock * (core.room - core.blocks)));
    }
    return at;
}

// The groups of a category of `count` rows. Where there are no categories, groups fill blocks, so that newer ones can follow.
int64_t groups_of(int64_t count, bool grows) {
    const int64_t groups = (count + kGroup - 1) / kGroup, whole = padded(groups, 16);
    return grows && whole <= count ? whole : groups;
}

int64_t groups_of(const std::vector<int64_t>& count, bool grows) {
    int64_t groups = 0;
    for (const int64_t n : count) groups += groups_of(n, grows);
    return groups;
}

// R and I from what was measured: residues of x in fp32, three roundings of a value up to 254 in each dimension, and of the sum.
void set_norms(PreparedKeys& core) {
    const double width = double(core.width);
    core.residue_norm = std::sqrt(double(core.residue_most)) * (1 + width * std::ldexp(1.0, -23)) + std::sqrt(width) * std::ldexp(127.0, -22);
    core.integer_norm = std::sqrt(double(core.integer_most));
}

// The largest magnitude in each dimension, over rows that are in a group. Bits of positive floats are in their order.
std::vector<float> most_of(const PrepareCall& call, const std::vector<char>* out) {
    std::vector<int32_t> most(size_t(call.width), 0);
    int32_t* const m = most.data();
    for (int64_t i = 0; i < call.length; ++i) {
        if (out && (*out)[size_t(i)]) continue;
        int32_t bits;
        const float* const row = call.key + i * call.width;
        for (int64_t d = 0; d < call.width; ++d) {
            std::memcpy(&bits, row + d, sizeof bits);
            bits &= 0x7fffffff;
            m[d] = m[d] > bits ? m[d] : bits;
        }
    }
    std::vector<float> value(size_t(call.width), 0.0f);
    std::memcpy(value.data(), most.data(), size_t(call.width) * sizeof(float));
    return value;
}

std::vector<int32_t> outliers_of(const PrepareCall& call, const SearchLevel& level, float most) {
    std::vector<int32_t> rows;
    const int64_t few = std::min<int64_t>(kMostOutliers, call.length / 64);
    if (few == 0 || most == 0) return rows;
    std::vector<float> size(size_t(padded(call.length, 16)));
    // Twice, as the inverse of a denormal is no float.
    const bool tiny = most < 1e-30f;
    if (tiny) return rows;
    level.measure(call.key, call.length, call.width, 1 / most, size.data());
    size.resize(size_t(call.length));
    std::vector<float> sorted = size;
    std::nth_element(sorted.begin(), sorted.begin() + few, sorted.end(), std::greater<float>());
    const float limit = float(kOutlierRatio * kOutlierRatio) * sorted[size_t(few)];
    for (int64_t i = 0; i < call.length; ++i)
        if (size[size_t(i)] > limit) rows.push_back(int32_t(i));
    return rows;
}

// Lists the rows of slots that hold several, newest first. `out`: rows that are in no slot.
void list_equal(PreparedKeys& core, const PrepareCall& call, const std::vector<char>& out) {
    int32_t *const equal = core.at<int32_t>(core.equal), *const member = core.at<int32_t>(core.member);
    std::copy(call.newest, call.newest + call.length, core.at<int32_t>(core.newest));
    std::fill(equal, equal + call.length, 0);
    for (int64_t i = 0; i < call.length; ++i) ++equal[call.newest[i]];
    for (int64_t i = call.length - 1; i >= 0; --i) {
        const int32_t newest = call.newest[i];
        if (out[size_t(newest)]) {
            equal[i] = 0;
            continue;
        }
        if (newest == i) {
            const int32_t rows = equal[i] == 1 ? 0 : equal[i];
            equal[i] = rows ? int32_t(32 * core.merged) : 0;
            core.merged += rows;
            if (rows == 0) continue;
        }
        member[equal[newest] / 32 + equal[newest] % 32] = int32_t(i);
        ++equal[newest];
    }
}

}  // namespace

int64_t prepared_bytes(const PrepareCall& call) {
    std::vector<int32_t> ids, place;
    places(call, ids, place);
    std::vector<int64_t> count(ids.size(), 0);
    for (const int32_t p : place) ++count[size_t(p)];
    if (call.slots < call.length) count[0] = call.slots;
    PreparedKeys core;
    return lay_out(core, call, groups_of(count, call.category == nullptr), int64_t(ids.size()));
}

void prepare_keys(const PrepareCall& call, const SearchLevel& level) {
    std::vector<int32_t> ids, place;
    places(call, ids, place);
    std::vector<float> most = most_of(call, nullptr);
    const float all = *std::max_element(most.begin(), most.end());
    const std::vector<int32_t> outliers = outliers_of(call, level, all);
    std::vector<char> out(size_t(call.length), 0);
    for (const int32_t row : outliers) out[size_t(row)] = 1;
    double square = 0;
    for (const float m : most) square += double(m) * m;
    if (!outliers.empty()) most = most_of(call, &out);
    const bool merged = call.slots < call.length;
    // Of equal rows only the newest is dealt out.
    std::vector<char> left = out;
    for (int64_t i = 0; i < call.length && merged; ++i) left[size_t(i)] |= call.newest[i] != i;

    const std::vector<int64_t> count = drop_empty(ids, place, left);
    PreparedKeys& core = *static_cast<PreparedKeys*>(call.core);
    const bool grows = call.category == nullptr;
    lay_out(core, call, groups_of(count, grows), int64_t(ids.size()));
    core.body = static_cast<char*>(call.body);
    if (merged) list_equal(core, call, out);
    core.outliers = int64_t(outliers.size());
    core.key_norm = std::sqrt(square);
    core.key_most = all;
    std::copy(outliers.begin(), outliers.end(), core.outlier);
    int32_t* const category = core.at<int32_t>(core.category);
    std::copy(ids.begin(), ids.end(), category);
    std::fill(category + ids.size(), category + ids.size() + 32, ids.back());

    // Slots: category by category, its rows dealt out to its groups in turn, as rows next to each other in time are alike: where they
    // shared a group, one maximum would stand for many of the best. What is left of a group repeats its first row.
    int32_t *const row = core.at<int32_t>(core.row), *const group_place = core.at<int32_t>(core.group_place);
    uint16_t* const own = core.at<uint16_t>(core.own);
    std::fill(own, own + 16 * core.blocks, uint16_t(0));
    std::vector<int64_t> first(ids.size(), 0), groups(ids.size(), 0), dealt(ids.size(), 0);
    int64_t group = 0;
    for (size_t p = 0; p < ids.size(); ++p) {
        first[p] = group;
        groups[p] = groups_of(count[p], grows);
        for (int64_t g = 0; g < groups[p]; ++g) group_place[group++] = int32_t(p);
    }
    for (int64_t g = group; g < 16 * core.blocks; ++g) group_place[g] = group ? group_place[group - 1] : 0;
    for (int64_t i = 0; i < call.length; ++i) {
        if (left[size_t(i)]) continue;
        const size_t p = size_t(place[size_t(i)]);
        const int64_t g = first[p] + dealt[p] % groups[p], slot = dealt[p] / groups[p];
        ++dealt[p];
        row[kGroup * g + slot] = int32_t(i);
        own[g] = uint16_t(own[g] | 1u << slot);
    }
    for (int64_t g = 0; g < group; ++g)
        for (int64_t slot = 1; slot < kGroup; ++slot)
            if (!(own[g] >> slot & 1)) row[kGroup * g + slot] = row[kGroup * g];
    std::fill(row + kGroup * group, row + kBlock * core.blocks, group ? row[0] : 0);

    // A dimension that is far smaller than the others needs no scale of its own: all of it is less than their residue.
    const float largest = *std::max_element(most.begin(), most.end());
    const bool tiny = largest < 1e-18f;
    const double lift = tiny ? kLift : 1, least = double(largest) * 1e-9;
    double* const scale = core.at<double>(core.scale);
    float* const inverse = core.at<float>(core.inverse);
    for (int64_t d = 0; d < 4 * core.quads; ++d) {
        const double m = d < call.width ? std::max(double(most[size_t(d)]), least) : 0;
        scale[d] = m / 127;
        inverse[d] = m > 0 ? float(127 / (m * lift)) : 0.0f;
    }
    core.lift = float(lift);
    level.quantise(core, call.key, 0, 0);
    set_norms(core);
}

SearchStatus extend_keys(const PrepareCall& call, const SearchLevel& level) {
    PreparedKeys& core = *static_cast<PreparedKeys*>(call.core);
    core = *static_cast<const PreparedKeys*>(call.older);
    const double* const scale = core.at<double>(core.scale);
    // Scales that are all 0 are those of rows that are all 0.
    const bool grows = core.groups == 16 * core.blocks && *std::max_element(scale, scale + core.width) > 0;
    if (!grows || core.blocks + call.length / kBlock > core.room) return kPrepareAnew;
    const int64_t first_row = core.length, first = core.blocks;
    int32_t* const row = core.at<int32_t>(core.row);
    for (; core.length - first_row < call.length; core.length += kBlock) {
        const float* const key = call.key + (core.length - first_row) * core.width;
        float residue[kBlock];
        int32_t integer[kBlock], fits[kBlock];
        int64_t count = 0;
        level.try_block(core, key, residue, integer);
        for (int64_t i = 0; i < kBlock; ++i) {
            // What would raise R or I is searched as the outliers are.
            const bool fit = residue[i] <= core.residue_most && integer[i] <= core.integer_most;
            if (fit) fits[count++] = int32_t(core.length + i);
            else if (core.outliers < kMostOutliers) core.outlier[core.outliers++] = int32_t(core.length + i);
            else return kPrepareAnew;
            double square = 0;
            for (int64_t d = 0; d < core.width; ++d) {
                square += double(key[i * core.width + d]) * key[i * core.width + d];
                core.key_most = std::max(core.key_most, double(std::fabs(key[i * core.width + d])));
            }
            core.key_norm = std::max(core.key_norm, std::sqrt(square));
        }
        if (count < 16) return kPrepareAnew;
        // Dealt out to the groups of the block in turn; what is left of a group repeats its first row.
        for (int64_t g = 0; g < 16; ++g) {
            int32_t* const slots = row + kBlock * core.blocks + kGroup * g;
            uint32_t own = 0;
            for (int64_t slot = 0; slot < kGroup; ++slot) {
                const int64_t i = 16 * slot + g;
                slots[slot] = i < count ? fits[i] : fits[g];
                own |= uint32_t(i < count) << slot;
            }
            core.at<uint16_t>(core.own)[16 * core.blocks + g] = uint16_t(own);
            core.at<int32_t>(core.group_place)[16 * core.blocks + g] = 0;
        }
        ++core.blocks, core.groups += 16;
    }
    if (core.merged) {
        std::fill(core.at<int32_t>(core.equal) + first_row, core.at<int32_t>(core.equal) + core.length, 0);
        for (int64_t i = first_row; i < core.length; ++i) core.at<int32_t>(core.newest)[i] = int32_t(i);
    }
    level.quantise(core, call.key, first_row, first);
    return kDone;
}
