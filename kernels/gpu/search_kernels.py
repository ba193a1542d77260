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
    q, largest, t, target_live, key, row, live, valid, bias, category, category_score, num_categories, item, target_item, bonus,
    A: tl.constexpr, A_PAD: tl.constexpr, WHOLE: tl.constexpr, FILTER: tl.constexpr, HAS_VALID: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Rounded scores of a tile of targets for the behaviors at `row`, -inf where `live` (all of them if WHOLE) or `valid` is false."""
    a = tl.arange(0, A_PAD)
    place = key + row[None, :] * A + a[:, None]
    if WHOLE and A == A_PAD:
        k = tl.load(place)
    else:
        k = tl.load(place, mask=live[None, :] & (a < A)[:, None], other=0.0)
    # The interpreter truncates to bf16 and multiplies its bits as integers; products of two bf16 are exact in float32.
    score = tl.dot(q, k.to(tl.float32 if INTERPRETED and FILTER == tl.bfloat16 else FILTER), input_precision="tf32")
    if FILTER == tl.float16:
        score *= largest[:, None]
    if HAS_VALID:
        live &= tl.load(valid + row, mask=live, other=0) != 0
    if HAS_BIAS or HAS_CATEGORY or HAS_BONUS or not WHOLE:
        addend = _addend(
            t[:, None], row[None, :], target_live[:, None], live[None, :], bias, category, category_score, num_categories,
            item, target_item, bonus, HAS_BIAS, HAS_CATEGORY, HAS_BONUS,
        )  # fmt: skip
        if not WHOLE:
            addend = tl.where(live[None, :], addend, float("-inf"))
        score += addend
    if HAS_VALID:
        # Not as a term: a masked key may be NaN.
        score = tl.where(live[None, :], score, float("-inf"))
    return score


@triton.jit(do_not_specialize=["num_categories", "bonus", "block_stride"])
def group_max_kernel(
    target, key, scale, key_start, target_start, bias, valid, category, category_score, num_categories, item, target_item, bonus,
    group_max, key_square, group_stride, block_stride,
    A: tl.constexpr, A_PAD: tl.constexpr, TARGETS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    FILTER: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_VALID: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Pass 1: maxima of the rounded scores over groups of GROUP behaviors, [T, groups], and the largest |key|^2 of each block.

    A block is GROUP tiles of COLUMNS behaviors; group c of a block holds column c of every tile, so that a maximum stays in the thread
    that owns the accumulator. Grid: (1 + tiles of targets, blocks of behaviors, users); tile 0 measures the keys.
    """
    tile, block, user = tl.program_id(0) - 1, tl.program_id(1), tl.program_id(2)
    first_key = tl.load(key_start + user).to(tl.int64)
    length = tl.load(key_start + user + 1) - tl.load(key_start + user)
    first_target = tl.load(target_start + user).to(tl.int64)
    num_targets = tl.load(target_start + user + 1) - tl.load(target_start + user)
    base = block * GROUP * COLUMNS
    if (base >= length) | (tile * TARGETS >= num_targets):
        return
    column, a = tl.arange(0, COLUMNS), tl.arange(0, A_PAD)
    tiles = tl.minimum(GROUP, tl.cdiv(length - base, COLUMNS))
    if tile < 0:
        square = tl.zeros([COLUMNS], tl.float32)
        for i in range(0, tiles):
            j = base + i * COLUMNS + column
            row, live = first_key + j, j < length
            if HAS_VALID:
                live &= tl.load(valid + row, mask=live, other=0) != 0
            k = tl.load(key + row[:, None] * A + a[None, :], mask=live[:, None] & (a < A)[None, :], other=0.0).to(tl.float32)
            square = tl.maximum(square, tl.sum(k * k, axis=1))
        tl.store(key_square + user * block_stride + block, tl.max(square, axis=0))
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
    whole = tl.minimum(GROUP, (length - base) // COLUMNS)
    # Two loops, because the many whole tiles need no mask and the last tile of a history does.
    for i in range(0, whole):
        score = _tile(
            q, largest, t, target_live, key, first_key + base + i * COLUMNS + column, column >= 0, valid, bias, category, category_score,
            num_categories, item, target_item, bonus, A, A_PAD, True, FILTER, HAS_VALID, HAS_BIAS, HAS_CATEGORY, HAS_BONUS, INTERPRETED,
        )  # fmt: skip
        best = tl.maximum(best, score)
    for i in range(whole, tiles):
        j = base + i * COLUMNS + column
        score = _tile(
            q, largest, t, target_live, key, first_key + j, j < length, valid, bias, category, category_score,
            num_categories, item, target_item, bonus, A, A_PAD, False, FILTER, HAS_VALID, HAS_BIAS, HAS_CATEGORY, HAS_BONUS, INTERPRETED,
        )  # fmt: skip
        best = tl.maximum(best, score)
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
def _bound(best, k, STEPS: tl.constexpr):
    """The k-th largest of `best` rounded down to its 1 + STEPS leading bits, -inf where fewer are above -inf."""
    code = _ordered(best)
    bound = tl.where(tl.sum((code >= 0).to(tl.int32), axis=0) >= k, 0, -2147483648)
    for i in range(0, STEPS):
        higher = bound + (1 << (30 - i))
        bound = tl.where(tl.sum((code >= higher).to(tl.int32), axis=0) >= k, higher, bound)
    return _from_ordered(tl.maximum(bound, -2139095041))


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


@triton.jit(do_not_specialize=["num_categories", "bonus", "block_stride", "k"])
def keep_best_kernel(
    target, key, scale, key_start, target_start, bias, valid, category, category_score, num_categories, item, target_item, bonus,
    group_max, survivor, key_square, kept_list, index, score, group_stride, block_stride, k,
    A: tl.constexpr, A_PAD: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, COARSE: tl.constexpr, RESCAN: tl.constexpr,
    CAPACITY: tl.constexpr, K_PAD: tl.constexpr, ERROR: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_VALID: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_CATEGORY: tl.constexpr, HAS_BONUS: tl.constexpr,
):  # fmt: skip
    """Pass 2: a bound from the maxima, exact scores of the groups above it, the k best of them, best first, ties newer first.

    `survivor` is the memory of `group_max` read as int32. Grid: (targets of a user, users).
    """
    n, user = tl.program_id(0), tl.program_id(1)
    if n >= tl.load(target_start + user + 1) - tl.load(target_start + user):
        return
    t = tl.load(target_start + user).to(tl.int64) + n
    first_key = tl.load(key_start + user).to(tl.int64)
    length = tl.load(key_start + user + 1) - tl.load(key_start + user)
    blocks = tl.cdiv(length, GROUP * COLUMNS)
    groups = blocks * COLUMNS
    group_max += t * group_stride
    survivor += t * group_stride
    kept_list += t * CAPACITY
    a, lane = tl.arange(0, A_PAD), tl.arange(0, COARSE)
    q = tl.load(target + t * A + a, mask=a < A, other=0.0)
    if HAS_SCALE:
        q *= tl.load(scale + user * A + a, mask=a < A, other=0.0)

    square, part = tl.zeros([128], tl.float32), tl.arange(0, 128)
    for first in range(0, blocks, 128):
        square = tl.maximum(square, tl.load(key_square + user * block_stride + first + part, mask=first + part < blocks, other=0.0))
    coarse = tl.full([COARSE], float("-inf"), tl.float32)
    # Maxima over disjoint sets of groups bound the k-th best score as well, and fit in registers however long the history is.
    for first in range(0, groups, COARSE):
        coarse = tl.maximum(coarse, tl.load(group_max + first + lane, mask=first + lane < groups, other=float("-inf")))
    bound = _bound(coarse, k, 20)
    # 1e-18 covers squares that underflow, 1e-36 products that a tensor core flushes to zero.
    slack = ERROR * (tl.sqrt(tl.sum(q * q, axis=0)) + 1e-18) * (tl.sqrt(tl.max(square, axis=0)) + 1e-18) + A * 1e-36
    slack += 1e-6 * tl.abs(bound)
    enough, lowest = bound - 2 * slack, bound - slack

    found = tl.zeros([], tl.int32)
    for first in range(0, groups, COARSE):
        best = tl.load(group_max + first + lane, mask=first + lane < groups, other=float("-inf"))
        stays = (best >= enough) & (best > float("-inf"))
        place = found + tl.cumsum(stays.to(tl.int32), axis=0) - 1
        # The list grows over maxima that every thread has read already.
        tl.debug_barrier()
        tl.store(survivor + place, first + lane, mask=stays)
        found += tl.sum(stays.to(tl.int32), axis=0)
    tl.debug_barrier()

    r = tl.arange(0, RESCAN)
    floor = (_ordered(lowest).to(tl.int64) << 32) - 1
    kept = tl.zeros([], tl.int32)
    # Newest first: among many equal scores the first k behaviors read are the answer, and the rest fail the floor.
    for first in range(0, found, RESCAN // GROUP):
        place = found - 1 - first - r // GROUP
        group = tl.load(survivor + place, mask=place >= 0, other=0)
        j = (group // COLUMNS) * (GROUP * COLUMNS) + (r % GROUP) * COLUMNS + group % COLUMNS
        row, live = first_key + j, (place >= 0) & (j < length)
        if HAS_VALID:
            live &= tl.load(valid + row, mask=live, other=0) != 0
        keys = tl.load(key + row[:, None] * A + a[None, :], mask=live[:, None] & (a < A)[None, :], other=0.0).to(tl.float32)
        exact = tl.sum(q[None, :] * keys, axis=1) + _addend(
            t, row, True, live, bias, category, category_score, num_categories, item, target_item, bonus, HAS_BIAS, HAS_CATEGORY, HAS_BONUS
        )
        # -0 and 0 are one score but two bit patterns.
        exact = tl.where(exact == 0.0, 0.0, exact)
        code = (_ordered(exact).to(tl.int64) << 32) | j.to(tl.int64)
        if kept + RESCAN > CAPACITY:
            floor = _keep_k(kept_list, kept, k, CAPACITY)
            kept = k
        stays = live & (code > floor)
        place = kept + tl.cumsum(stays.to(tl.int32), axis=0) - 1
        tl.store(kept_list + place, code, mask=stays)
        kept += tl.sum(stays.to(tl.int32), axis=0)
    tl.debug_barrier()

    slot, other = tl.arange(0, CAPACITY), tl.arange(0, 4)
    code = tl.load(kept_list + slot, mask=slot < kept, other=-9223372036854775808)
    # Codes differ, so the number of larger ones is a place in the order: no sort.
    rank = tl.zeros([CAPACITY], tl.int32)
    for first in range(0, kept, 4):
        rival = tl.load(kept_list + first + other, mask=first + other < kept, other=-9223372036854775808)
        rank += tl.sum((rival[None, :] > code[:, None]).to(tl.int32), axis=1)
    index += t * k
    score += t * k
    stays = (slot < kept) & (rank < k)
    tl.store(index + rank, code.to(tl.int32), mask=stays)
    tl.store(score + rank, _from_ordered((code >> 32).to(tl.int32)), mask=stays)
    empty = tl.arange(0, K_PAD)
    tl.store(index + empty, tl.full([K_PAD], -1, tl.int32), mask=(empty >= kept) & (empty < k))
    tl.store(score + empty, tl.full([K_PAD], float("-inf"), tl.float32), mask=(empty >= kept) & (empty < k))
