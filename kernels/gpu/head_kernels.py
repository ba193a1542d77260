"""The head of stage 2 in Triton: one kernel for the wide layer, one for the rest. `kernels.gpu.head` prepares their arguments."""

# Parameters are pointers and compile-time constants of the Triton language, which mypy cannot type: see pyproject.toml.
import triton
import triton.language as tl


@triton.jit
def _layer(x, w, b, slope, row, row_live, column, x_stride, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
           DEEP: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """PReLU(x w + b) of a tile of rows and columns, in float32; 0 in columns past OUTPUTS."""
    total = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    for first in range(0, INPUTS, DEEP):
        deep = first + tl.arange(0, DEEP)
        left = tl.load(x + row[:, None] * x_stride + deep[None, :], mask=row_live[:, None] & (deep < INPUTS)[None, :], other=0.0)
        right = tl.load(
            w + deep[:, None] * OUTPUTS + column[None, :], mask=(deep < INPUTS)[:, None] & (column < OUTPUTS)[None, :], other=0.0
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    total += tl.load(b + column, mask=column < OUTPUTS, other=0.0)[None, :]
    return tl.where(total > 0, total, slope * total)


@triton.jit(do_not_specialize=["rows", "slope"])
def hidden_kernel(x, w, b, hidden, rows, slope, x_stride, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr, DEEP: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    """hidden = PReLU(x w + b). Grid: (tiles of rows, tiles of columns)."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    value = _layer(x, w, b, slope, row, row < rows, column, x_stride, INPUTS, OUTPUTS, DEEP, PRECISION)
    tl.store(hidden + row[:, None] * OUTPUTS + column[None, :], value, mask=(row < rows)[:, None] & (column < OUTPUTS)[None, :])


@triton.jit(do_not_specialize=["rows", "slope", "b3"])
def output_kernel(x, w, b, w3, b3, probability, rows, slope, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr, DEEP: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    """probability = sigmoid(PReLU(x w + b) w3 + b3); a program holds all columns. Grid: (tiles of rows,)."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    value = _layer(x, w, b, slope, row, row < rows, column, INPUTS, INPUTS, OUTPUTS, DEEP, PRECISION)
    logit = tl.sum(value * tl.load(w3 + column, mask=column < OUTPUTS, other=0.0)[None, :], axis=1) + b3
    tl.store(probability + row, 1.0 / (1.0 + tl.exp(-logit)), mask=row < rows)
