"""Stage 2 up to the head in Triton: weights, gather, interest, target-aware product and mass in one pass over the kept behaviors."""

# Parameters are pointers and compile-time constants of the Triton language, which mypy cannot type: see pyproject.toml.
import triton
import triton.language as tl


@triton.jit
def _rows(table, rows, row_live, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Table rows as they are stored: [rows, PAD]."""
    column = tl.arange(0, PAD)
    place = rows.to(tl.int64)[:, None] * WIDTH + column[None, :]
    return tl.load(table + place, mask=row_live[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def _write(table, row, interest, features, BEFORE: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """One table's columns of u, h and u * h."""
    column = tl.arange(0, PAD)
    real = column < WIDTH
    u = tl.load(table + row.to(tl.int64) * WIDTH + column, mask=real, other=0.0).to(tl.float32)
    tl.store(features + BEFORE + column, u, mask=real)
    tl.store(features + R + BEFORE + column, interest, mask=real)
    tl.store(features + 2 * R + BEFORE + column, u * interest, mask=real)


@triton.jit(do_not_specialize=["k", "extra_width"])
def pool_kernel(
    index, score, item, category, recency, behavior_item, behavior_category, behavior_recency, behavior_start, target_start,
    target_item, target_category, extra, features, mass, k, extra_width, feature_stride,
    K_PAD: tl.constexpr, CHUNK: tl.constexpr, RI: tl.constexpr, RI_PAD: tl.constexpr, RC: tl.constexpr, RC_PAD: tl.constexpr,
    RP: tl.constexpr, RP_PAD: tl.constexpr, E_PAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x = [u ; h ; u * h ; mass ; extra] of one target a program. Grid: (targets of a user, users)."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    n, user = tl.program_id(0), tl.program_id(1)
    if n >= tl.load(target_start + user + 1) - tl.load(target_start + user):
        return
    t = tl.load(target_start + user).to(tl.int64) + n
    first = tl.load(behavior_start + user).to(tl.int64)
    index += t * k
    score += t * k
    features += t * feature_stride
    slot = tl.arange(0, K_PAD)
    kept = tl.load(index + slot, mask=slot < k, other=-1) >= 0
    s = tl.load(score + slot, mask=kept, other=float("-inf"))
    best = tl.max(s, axis=0)
    best = tl.where(best > float("-inf"), best, 0.0)
    total = tl.sum(tl.where(kept, tl.exp(s - best), 0.0), axis=0)
    # log(1 + sum exp s) without overflow: the 1 is a score of 0.
    top = tl.maximum(best, 0.0)
    log_mass = top + tl.log(tl.exp(-top) + tl.exp(best - top) * total)
    total = tl.where(total > 0, total, 1.0)
    part = tl.arange(0, CHUNK)
    interest_item, interest_category = tl.zeros([RI_PAD], tl.float32), tl.zeros([RC_PAD], tl.float32)
    interest_recency = tl.zeros([RP_PAD], tl.float32)
    for at in range(0, k, CHUNK):
        j = tl.load(index + at + part, mask=at + part < k, other=-1)
        live = j >= 0
        weight = tl.exp(tl.load(score + at + part, mask=live, other=float("-inf")) - best) / total
        weight = tl.where(live, weight, 0.0)
        row = first + j
        rows_item = _rows(item, tl.load(behavior_item + row, mask=live, other=0), live, RI, RI_PAD)
        rows_category = _rows(category, tl.load(behavior_category + row, mask=live, other=0), live, RC, RC_PAD)
        rows_recency = _rows(recency, tl.load(behavior_recency + row, mask=live, other=0), live, RP, RP_PAD)
        # All loads are under way before the first is waited for: the compiler moves none past a barrier.
        tl.debug_barrier()
        interest_item += tl.sum(rows_item.to(tl.float32) * weight[:, None], axis=0)
        interest_category += tl.sum(rows_category.to(tl.float32) * weight[:, None], axis=0)
        interest_recency += tl.sum(rows_recency.to(tl.float32) * weight[:, None], axis=0)
    R: tl.constexpr = RI + RC + RP
    _write(item, tl.load(target_item + t), interest_item, features, 0, R, RI, RI_PAD)
    _write(category, tl.load(target_category + t), interest_category, features, RI, R, RC, RC_PAD)
    _write(recency, n * 0, interest_recency, features, RI + RC, R, RP, RP_PAD)
    tl.store(features + 3 * R, log_mass)
    tl.store(mass + t, log_mass)
    column = tl.arange(0, E_PAD)
    real = column < extra_width
    tl.store(features + 3 * R + 1 + column, tl.load(extra + t * extra_width + column, mask=real, other=0.0), mask=real)
