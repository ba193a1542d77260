// From fp32 rows to the two 8-bit layouts of PreparedKeys. No include guard: see search_kernel.hpp.

TARGET static void measure_rows(const float* key, int64_t length, int64_t width, float scale, float* size_L) {
    for (int64_t first = 0; first < length; first += 16) {
        F sum = fset(0.0f);
        for (int64_t column = 0; column < width; column += 16) {
            const int n = int(width - column < 16 ? width - column : 16);
            const float* rows[16];
            for (int i = 0; i < 16; ++i) rows[i] = key + (first + i < length ? first + i : length - 1) * width;
            F dims[16];
            transpose(rows, column, n, dims);
            for (int i = 0; i < n; ++i) {
                const F x = fmul(dims[i], fset(scale));
                sum = fmadd(x, x, sum);
            }
        }
        fstore(size_L + first, sum);
    }
}

// One group of 16 rows: [quads][16 slots][4] bytes. Raises the largest squared norms.
INLINE void quantise_group(const float* const* rows, int64_t width, float lift, const float* inverse_scale, uint8_t* grouped, F* residue_most,
                           I* integer_most) {
    F residue = fset(0.0f);
    I integer = iset(0);
    for (int64_t column = 0; column < width; column += 16) {
        const int n = int(width - column < 16 ? width - column : 16);
        F dims[16];
        transpose(rows, column, n, dims);
        I byte[16];
        for (int i = 0; i < 16; ++i) {
            if (i >= n) {
                byte[i] = iset(0);
                continue;
            }
            const F x = fmul(fmul(dims[i], fset(lift)), fset(inverse_scale[column + i]));
            const I a = imax(imin(ito(x), iset(127)), iset(-127));
            const F left = fsub(x, fto(a));
            residue = fmadd(left, left, residue);
            integer = iadd(integer, imul(a, a));
            byte[i] = iadd(a, iset(128));
        }
        for (int i = 0; i < n; i += 4) {
            const I four = ior(ior(byte[i], ishift<8>(byte[i + 1])), ior(ishift<16>(byte[i + 2]), ishift<24>(byte[i + 3])));
            istore(grouped + (column + i) * 16, four);
        }
    }
    *residue_most = fmax(*residue_most, residue);
    *integer_most = imax(*integer_most, integer);
}

TARGET static void quantise_rows(PreparedKeys& core, const float* key, int64_t first_row, int64_t first) {
    uint8_t *const grouped = core.at<uint8_t>(core.grouped), *const blocked = core.at<uint8_t>(core.blocked);
    const int32_t* const row = core.at<int32_t>(core.row);
    const int64_t quads = core.quads;
    F residue = fset(0.0f);
    I integer = iset(0);
    for (int64_t g = 16 * first; g < 16 * core.blocks; ++g) {
        const float* rows[16];
        for (int i = 0; i < 16; ++i) rows[i] = key + (row[16 * g + i] - first_row) * core.width;
        quantise_group(rows, core.width, core.lift, core.at<float>(core.inverse), grouped + g * quads * 64, &residue, &integer);
    }
    for (int64_t block = first; block < core.blocks; ++block) {
        for (int64_t quad = 0; quad < quads; ++quad) {
            const float* rows[16];
            for (int j = 0; j < 16; ++j) rows[j] = reinterpret_cast<const float*>(grouped + ((16 * block + j) * quads + quad) * 64);
            F slots[16];
            transpose(rows, 0, 16, slots);
            for (int v = 0; v < 16; ++v) fstore(reinterpret_cast<float*>(blocked + ((16 * block + v) * quads + quad) * 64), slots[v]);
        }
    }
    alignas(64) float residues[16];
    alignas(64) int32_t integers[16];
    fstore(residues, residue);
    istore(integers, integer);
    for (int i = 0; i < 16; ++i) {
        core.residue_most = residues[i] > core.residue_most ? residues[i] : core.residue_most;
        core.integer_most = integers[i] > core.integer_most ? integers[i] : core.integer_most;
    }
}

TARGET static void try_block(const PreparedKeys& core, const float* key, float* residue, int32_t* integer) {
    uint8_t unused[16 * kWidest];
    for (int64_t g = 0; g < 16; ++g) {
        const float* rows[16];
        for (int i = 0; i < 16; ++i) rows[i] = key + (16 * g + i) * core.width;
        F residues = fset(0.0f);
        I integers = iset(0);
        quantise_group(rows, core.width, core.lift, core.at<float>(core.inverse), unused, &residues, &integers);
        fstore(residue + 16 * g, residues);
        istore(integer + 16 * g, integers);
    }
}

TARGET static void spread_rows(const PreparedKeys& core, const float* value_L, float* grouped, float* blocked) {
    const int32_t* const row = core.at<int32_t>(core.row);
    for (int64_t block = 0; block < core.blocks; ++block, grouped += kBlock, blocked += kBlock) {
        const float* rows[16];
        for (int j = 0; j < 16; ++j) {
            rows[j] = grouped + 16 * j;
            fstore(grouped + 16 * j, fgather(value_L, iload(row + kBlock * block + 16 * j)));
        }
        F slots[16];
        transpose(rows, 0, 16, slots);
        for (int v = 0; v < 16; ++v) fstore(blocked + 16 * v, slots[v]);
    }
}
