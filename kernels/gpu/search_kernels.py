"""The two passes of search in Triton. `kernels.gpu.search` prepares their arguments; README.md has the layout and the error bound."""

# Parameters are pointers and compile-time constants of the Triton language, which mypy cannot type: see pyproject.toml.
import triton
import triton.language as tl


@triton.jit
def _addend(
    target, row, target_live, row_live, bias, category, category_score, num_categories, item, target_item, bonus,
    HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr,
):  # fmt: skip
    """What is added to the inner products, in one order of additions for both passes: of the shape of `row`, or of `target` and `row`
    broadcast where a term depends on both."""
    if HAS_BIAS:
        addend = tl.load(bias + row, mask=row_live, other=0.0)
    else:
        addend = tl.where(row_live, 0.0, 0.0)
    if HAS_CATEGORY:
        column = tl.load(category + row, mask=row_live, other=0)
        addend += tl.load(category_score + target * num_categories + column, mask=target_live & row_live, other=0.0)
    if HAS_BONUS:
        same = tl.load(item + row, mask=row_live, other=0) == tl.load(target_item + target, mask=target_live, other=0)
        addend += tl.where(same, bonus, 0.0)
    return addend


@triton.jit
def _nearest_bfloat16(value):
    """float32 rounded to the nearest that bf16 holds, ties to even."""
    bits = value.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _tile(
    q, largest, t, target_live, key, row, valid, bias, category, category_score, num_categories, item, target_item, bonus,
    A: tl.constexpr, A_PAD: tl.constexpr, FILTER: tl.constexpr, HAS_VALID: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Rounded scores of a tile of targets for the behaviors at `row`, -inf where `valid` is false."""
    a = tl.arange(0, A_PAD)
    place = key + row[None, :] * A + a[:, None]
    if A == A_PAD:
        k = tl.load(place)
    else:
        k = tl.load(place, mask=(a < A)[:, None], other=0.0)
    # The interpreter truncates to bf16 and multiplies its bits as integers; products of two bf16 are exact in float32.
    score = tl.dot(q, k.to(tl.float32 if INTERPRETED and FILTER == tl.bfloat16 else FILTER), input_precision="tf32")
    if FILTER == tl.float16:
        score *= largest[:, None]
    live = row >= 0
    if HAS_VALID:
        live = tl.load(valid + row) != 0
    if HAS_BIAS or HAS_CATEGORY or HAS_BONUS:
        score += _addend(
            t[:, None], row[None, :], target_live[:, None], live[None, :], bias, category, category_score, num_categories,
            item, target_item, bonus, HAS_BIAS, HAS_CATEGORY, HAS_BONUS,
        )  # fmt: skip
    if HAS_VALID:
        # Not as a term: a masked key may be NaN.
        score = tl.where(live[None, :], score, float("-inf"))
    return score


@triton.jit(do_not_specialize=["num_categories", "bonus", "blocks"])
def group_max_kernel(
    target, key, scale, key_start, target_start, bias, valid, category, category_score, num_categories, item, target_item, bonus,
    group_max, key_square, group_stride, blocks,
    A: tl.constexpr, A_PAD: tl.constexpr, TARGETS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    FILTER: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_VALID: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr, INTERPRETED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Pass 1: maxima of the rounded scores over groups of GROUP behaviors, [T, groups], and the largest |key|^2 of each block.

    Group g holds the behaviors g * GROUP and after. A block is COLUMNS groups; its i-th tile holds the i-th behavior of each, so that a
    maximum stays in the thread that owns the accumulator. Grid: (1 + tiles of targets, blocks of behaviors, users); tile 0 measures the
    keys.
    """
    if EARLY:
        # Pass 2 may take its place on the device now; it waits for the end of this one before it reads.
        tl.extra.cuda.gdc_launch_dependents()
    tile, block, user = tl.program_id(0) - 1, tl.program_id(1), tl.program_id(2)
    first_key = tl.load(key_start + user).to(tl.int64)
    length = tl.load(key_start + user + 1) - tl.load(key_start + user)
    first_target = tl.load(target_start + user).to(tl.int64)
    num_targets = tl.load(target_start + user + 1) - tl.load(target_start + user)
    base = block * GROUP * COLUMNS
    if (base >= length) | (tile * TARGETS >= num_targets):
        return
    key += first_key * A
    if HAS_VALID:
        valid += first_key
    if HAS_BIAS:
        bias += first_key
    if HAS_CATEGORY:
        category += first_key
    if HAS_BONUS:
        item += first_key
    column, a = tl.arange(0, COLUMNS), tl.arange(0, A_PAD)
    if tile < 0:
        square = tl.zeros([COLUMNS], tl.float32)
        for i in range(0, tl.minimum(GROUP, tl.cdiv(length - base, COLUMNS))):
            j = base + i * COLUMNS + column
            live = j < length
            if HAS_VALID:
                live &= tl.load(valid + j, mask=live, other=0) != 0
            k = tl.load(key + j[:, None] * A + a[None, :], mask=live[:, None] & (a < A)[None, :], other=0.0).to(tl.float32)
            square = tl.maximum(square, tl.sum(k * k, axis=1))
        tl.store(key_square + user * blocks + block, tl.max(square, axis=0))
        return
    n = tile * TARGETS + tl.arange(0, TARGETS)
    t, target_live = first_target + n, n < num_targets
    q = tl.load(target + t[:, None] * A + a[None, :], mask=target_live[:, None] & (a < A)[None, :], other=0.0)
    if HAS_SCALE:
        q *= tl.load(scale + user * A + a, mask=a < A, other=0.0)[None, :]
    largest = tl.max(tl.abs(q), axis=1)
    if FILTER == tl.float16:
        # fp16 has few exponents: bring each target to at most 1 and its scores back afterwards.
        q = q / tl.where(largest > 0, largest, 1.0)[:, None]
    if INTERPRETED and FILTER == tl.bfloat16:
        q = _nearest_bfloat16(q)
    else:
        q = q.to(FILTER)
    best = tl.full([TARGETS, COLUMNS], float("-inf"), tl.float32)
    for i in range(0, GROUP):
        # Past the end is the last behavior once more: of its own group, or of groups that are -inf below.
        row = tl.minimum(base + column * GROUP + i, length - 1)
        score = _tile(
            q, largest, t, target_live, key, row, valid, bias, category, category_score, num_categories, item, target_item, bonus,
            A, A_PAD, FILTER, HAS_VALID, HAS_BIAS, HAS_CATEGORY, HAS_BONUS, INTERPRETED,
        )  # fmt: skip
        best = tl.maximum(best, score)
    best = tl.where((base + column * GROUP < length)[None, :], best, float("-inf"))
    tl.store(group_max + t[:, None] * group_stride + (block * COLUMNS + column)[None, :], best, mask=target_live[:, None])


@triton.jit
def _ordered(value):
    """Signed integers that order like the floats. Bits of -inf give -2139095041, the least of all that are not NaN."""
    bits = value.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _from_ordered(code):
    return (code ^ ((code >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _bound(best, k, tolerance):
    """A number that at least k of `best` reach and, but for `tolerance`, no larger one is; -inf where fewer than k are above -inf."""
    code = _ordered(best)
    real = code > -2139095041
    enough = tl.sum(real.to(tl.int32), axis=0) >= k
    low = tl.min(tl.where(real, code, 2147483647), axis=0).to(tl.int64)
    high = tl.max(code, axis=0).to(tl.int64) + 1
    # Two places at a time: counts of at most 2^15 share a number.
    while enough & (high - low > 2) & (_from_ordered((high - 1).to(tl.int32)) - _from_ordered(low.to(tl.int32)) > tolerance):
        third = (high - low) // 3
        lower, upper = low + third, high - third
        count = tl.sum(tl.where(code >= upper.to(tl.int32), 65537, (code >= lower.to(tl.int32)).to(tl.int32)), axis=0)
        at_lower, at_upper = count & 65535, count >> 16
        low = tl.where(at_upper >= k, upper, tl.where(at_lower >= k, lower, low))
        high = tl.where(at_upper >= k, high, tl.where(at_lower >= k, upper, lower))
    return tl.where(enough, _from_ordered(low.to(tl.int32)), float("-inf"))


@triton.jit
def _places(true, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, AXIS: tl.constexpr):
    """Places 0, 1, ... of the true ones of [SIZE], and how many there are: those that are neighbors along AXIS of [ROWS, COLUMNS] get
    neighboring places.

    A thread holds all of AXIS, so that only the counts of threads cross threads.
    """
    tile = tl.reshape(true.to(tl.int32), [ROWS, COLUMNS])
    count = tl.sum(tile, axis=AXIS)
    before = tl.expand_dims(tl.cumsum(count, axis=0) - count, AXIS)
    return tl.reshape(before + tl.cumsum(tile, axis=AXIS) - 1, [SIZE]), tl.sum(count, axis=0)


@triton.jit
def _keep_k(kept_list, kept, k, CAPACITY: tl.constexpr):
    """Shrink the list of `kept` >= k codes to its k largest, in place; the smallest of them."""
    slot = tl.arange(0, CAPACITY)
    tl.debug_barrier()
    code = tl.load(kept_list + slot, mask=slot < kept, other=-9223372036854775808)
    zero = tl.zeros([], tl.int64)
    floor = tl.where(tl.sum((code >= 0).to(tl.int32), axis=0) >= k, zero, zero - 9223372036854775807 - 1)
    for i in range(0, 63):
        higher = floor + ((zero + 1) << (62 - i))
        floor = tl.where(tl.sum((code >= higher).to(tl.int32), axis=0) >= k, higher, floor)
    stays = (code >= floor) & (slot < kept)
    place = tl.cumsum(stays.to(tl.int32), axis=0) - 1
    tl.debug_barrier()
    tl.store(kept_list + place, code, mask=stays)
    tl.debug_barrier()
    return floor


@triton.jit(do_not_specialize=["num_categories", "bonus", "blocks", "block", "k"])
def keep_best_kernel(
    target, key, scale, key_start, target_start, bias, valid, category, category_score, num_categories, item, target_item, bonus,
    group_max, survivor, key_square, kept_list, lane_list, index, score, group_stride, blocks, block, k,
    A: tl.constexpr, A_PAD: tl.constexpr, GROUP: tl.constexpr, COARSE: tl.constexpr, FOLDS: tl.constexpr, EACH: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, CAPACITY: tl.constexpr, SLOTS: tl.constexpr, K_PAD: tl.constexpr, ERROR: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_VALID: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Pass 2: a bound from the maxima, exact scores of the groups above it, the k best of them, best first, ties newer first.

    `survivor` is the memory of `group_max` read as int32, `lane_list` that of `kept_list`. Grid: (targets of a user, users).
    """
    n, user = tl.program_id(0), tl.program_id(1)
    if n >= tl.load(target_start + user + 1) - tl.load(target_start + user):
        if EARLY:
            tl.extra.cuda.gdc_wait()
        return
    t = tl.load(target_start + user).to(tl.int64) + n
    first_key = tl.load(key_start + user).to(tl.int64)
    length = tl.load(key_start + user + 1) - tl.load(key_start + user)
    groups = tl.cdiv(length, GROUP)
    target += t * A
    key += first_key * A
    if HAS_VALID:
        valid += first_key
    if HAS_BIAS:
        bias += first_key
    if HAS_CATEGORY:
        category += first_key
    if HAS_BONUS:
        item += first_key
    group_max += t * group_stride
    survivor += t * group_stride
    kept_list += t * CAPACITY
    lane_list += t * (2 * CAPACITY)
    a, part = tl.arange(0, A_PAD), tl.arange(0, 128)
    q = tl.load(target + a, mask=a < A, other=0.0)
    if HAS_SCALE:
        q *= tl.load(scale + user * A + a, mask=a < A, other=0.0)
    if EARLY:
        tl.extra.cuda.gdc_wait()

    square = tl.zeros([128], tl.float32)
    mine = tl.cdiv(length, block)
    for first in range(0, mine, 128):
        square = tl.maximum(square, tl.load(key_square + user * blocks + first + part, mask=first + part < mine, other=0.0))
    lane = tl.arange(0, COARSE)
    coarse = tl.full([COARSE], float("-inf"), tl.float32)
    # Maxima over disjoint sets of groups bound the k-th best score as well, and fit in registers however long the history is.
    for first in range(0, groups, FOLDS * COARSE):
        fold = first + tl.arange(0, FOLDS)[:, None] * COARSE + lane[None, :]
        if first + FOLDS * COARSE <= groups:
            coarse = tl.maximum(coarse, tl.max(tl.load(group_max + fold), axis=0))
        else:
            coarse = tl.maximum(coarse, tl.max(tl.load(group_max + fold, mask=fold < groups, other=float("-inf")), axis=0))
    # 1e-18 covers squares that underflow, 1e-36 products that a tensor core flushes to zero.
    slack = ERROR * (tl.sqrt(tl.sum(q * q, axis=0)) + 1e-18) * (tl.sqrt(tl.max(square, axis=0)) + 1e-18) + A * 1e-36
    bound = _bound(coarse, k, 0.25 * slack)
    slack += 1e-6 * tl.abs(bound)
    enough, lowest = bound - 2 * slack, bound - slack

    # Only groups of a lane whose maximum is above can be above.
    above = (coarse >= enough) & (coarse > float("-inf"))
    spot, found = _places(above, COARSE, COARSE // 4, 4, 1)
    tl.debug_barrier()
    if groups <= COARSE:
        tl.store(survivor + spot, lane, mask=above)
    else:
        tl.store(lane_list + spot, lane, mask=above)
        tl.debug_barrier()
        lanes, found = found, tl.zeros([], tl.int32)
        # The lanes rounded up to a power of two: the exponent of a float counts its bits.
        shift = tl.maximum((tl.maximum(lanes - 1, 0).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 126, 0)
        for first in range(0, tl.cdiv(groups, COARSE) << shift, COARSE):
            place = (first + lane) & ((1 << shift) - 1)
            candidate = ((first + lane) >> shift) * COARSE + tl.load(lane_list + place, mask=place < lanes, other=0)
            best = tl.load(group_max + candidate, mask=(place < lanes) & (candidate < groups), other=float("-inf"))
            above = (best >= enough) & (best > float("-inf"))
            spot, more = _places(above, COARSE, COARSE // 4, 4, 1)
            # The list grows over maxima that every thread has read already: groups rise, and the n-th listed is at least n.
            tl.debug_barrier()
            tl.store(survivor + found + spot, candidate, mask=above)
            found += more
    tl.debug_barrier()

    r = tl.arange(0, EACH * ROWS)
    floor = (_ordered(lowest).to(tl.int64) << 32) - 1
    kept = tl.zeros([], tl.int32)
    # Newest first: among many equal scores the first k behaviors read are the answer, and the rest fail the floor.
    for first in range(0, found, EACH * ROWS // GROUP):
        behind = found - 1 - first - r // GROUP
        j = tl.load(survivor + tl.maximum(behind, 0)) * GROUP + r % GROUP
        live, row = (behind >= 0) & (j < length), tl.minimum(j, length - 1)
        if HAS_VALID:
            live &= tl.load(valid + row) != 0
        # In pieces that few threads share, so that little of a sum crosses threads.
        pieces = ()
        for at in tl.static_range(0, A_PAD, CHUNK):
            column = at + tl.arange(0, CHUNK)
            source = key + row[:, None] * A + column[None, :]
            if A == A_PAD:
                pieces += (tl.load(source),)
            else:
                pieces += (tl.load(source, mask=(column < A)[None, :], other=0.0),)
        # All loads are under way before the first is waited for: the compiler moves none past a barrier.
        tl.debug_barrier()
        exact = tl.zeros([EACH * ROWS], tl.float32)
        for at in tl.static_range(0, A_PAD // CHUNK):
            column = at * CHUNK + tl.arange(0, CHUNK)
            query = tl.load(target + column, mask=column < A, other=0.0)
            if HAS_SCALE:
                query *= tl.load(scale + user * A + column, mask=column < A, other=0.0)
            exact += tl.sum(query[None, :] * pieces[at].to(tl.float32), axis=1)
        if HAS_BIAS or HAS_CATEGORY or HAS_BONUS:
            exact += _addend(
                t, row, True, live, bias, category, category_score, num_categories, item, target_item, bonus,
                HAS_BIAS, HAS_CATEGORY, HAS_BONUS,
            )  # fmt: skip
        # -0 and 0 are one score but two bit patterns.
        exact = tl.where(exact == 0.0, 0.0, exact)
        code = (_ordered(exact).to(tl.int64) << 32) | j.to(tl.int64)
        if kept + EACH * ROWS > CAPACITY - 8:
            floor = _keep_k(kept_list, kept, k, CAPACITY)
            kept = k
        stays = live & (code > floor)
        free, more = _places(stays, EACH * ROWS, EACH, ROWS, 0)
        tl.store(kept_list + kept + free, code, mask=stays)
        kept += more
    # Eight codes smaller than any end the list, so that it can be read in eights.
    last = tl.arange(0, 8)
    tl.store(kept_list + kept + last, last.to(tl.int64) * 0 - 9223372036854775807)
    tl.debug_barrier()

    index += t * k
    score += t * k
    slot = tl.arange(0, SLOTS)
    # Codes differ, so the number of larger ones is a place in the order: no sort.
    for base in range(0, kept, SLOTS):
        kept_code = tl.load(kept_list + base + slot, mask=base + slot < kept, other=-9223372036854775808)
        rank = tl.zeros([SLOTS], tl.int32)
        for start in range(0, kept, 8):
            for other in tl.static_range(8):
                rank += (tl.load(kept_list + start + other) > kept_code).to(tl.int32)
        listed = (base + slot < kept) & (rank < k)
        tl.store(index + rank, kept_code.to(tl.int32), mask=listed)
        tl.store(score + rank, _from_ordered((kept_code >> 32).to(tl.int32)), mask=listed)
    empty = tl.arange(0, K_PAD)
    tl.store(index + empty, tl.full([K_PAD], -1, tl.int32), mask=(empty >= kept) & (empty < k))
    tl.store(score + empty, tl.full([K_PAD], float("-inf"), tl.float32), mask=(empty >= kept) & (empty < k))
