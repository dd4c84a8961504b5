/* project.c - the leading principal directions of a sample, and every row projected on them.
 *
 * Randomised subspace iteration (Halko, Martinsson, Tropp 2011) on a sample of rows. The basis need
 * not be exact: any orthonormal one gives true bounds, a good one gives tight ones. How far from
 * orthonormal rounding left it is measured and enters the error terms.
 */
#include <math.h>
#include <string.h>

#include "gemm.h"
#include "kernels/philox.h"
#include "kmeans/km.h"

enum { SAMPLE = 512, ROUNDS = 2, MORE = 2048, BLOCKS = 8, BLOCK_ROWS = 64, PROBE = 64 };

/* The transposed inverse of a lower triangular factor (p, p), as float32. */
static void invert(const double *factor, int p, double *column, float *inverse) {
    memset(inverse, 0, (size_t)(p * p) * sizeof *inverse);
    for (int j = 0; j < p; j++)
        for (int i = j; i < p; i++) {
            double sum = i == j;
            for (int l = j; l < i; l++) sum -= factor[i * p + l] * column[l];
            column[i] = sum / factor[i * p + i];
            inverse[j * p + i] = (float)column[i];
        }
}

/* Orthonormalise the columns of v (d, p) by Cholesky of v'v, twice; false if they are dependent.
 * copy: room for v. */
static bool orthonormalise(float *v, int64_t d, int p, float *gram, double *factor, float *copy) {
    for (int round = 0; round < 2; round++) {
        fn_sgemm(true, false, p, p, d, v, p, v, p, 0, gram, p);
        for (int i = 0; i < p; i++)
            for (int j = 0; j <= i; j++) {
                double sum = (double)gram[i * p + j];
                for (int l = 0; l < j; l++) sum -= factor[i * p + l] * factor[j * p + l];
                if (i != j)
                    factor[i * p + j] = sum / factor[j * p + j];
                else if (sum > 2e-7 * (double)gram[i * p + i] && sum > 1e-30)
                    factor[i * p + i] = sqrt(sum);
                else
                    return false;
            }
        invert(factor, p, factor + p * p, gram);
        memcpy(copy, v, (size_t)(d * p) * sizeof *v);
        fn_sgemm(false, false, d, p, p, copy, p, gram, p, 0, v, p);
    }
    return true;
}

/* The largest row sum of |v'v - 1|: at least its norm, rounding of the products included. */
static double basis_error(const float *v, int64_t d, int p, float *gram) {
    double most = 0;
    fn_sgemm(true, false, p, p, d, v, p, v, p, 0, gram, p);
    for (int i = 0; i < p; i++) {
        double sum = 0;
        for (int j = 0; j < p; j++) sum += fabs((double)gram[i * p + j] - (i == j));
        if (sum > most) most = sum;
    }
    return most + 0x1p-24 * sqrt((double)d) * p * 4;
}

/* Random numbers in [-1, 1) times `scale`, added to v: columns stay independent where the data has
 * fewer directions than the basis. */
static void add_noise(float *v, int64_t count, double scale) {
    for (int64_t e = 0; e < count; e++)
        v[e] += (float)(scale * (double)(int32_t)fn_philox(1, 99, (uint64_t)e).v[0] * 0x1p-31);
}

static double root_mean_square(const float *v, int64_t count) {
    double sum = 0;
    for (int64_t e = 0; e < count; e++) sum += (double)v[e] * (double)v[e];
    return sqrt(sum / (double)count);
}

/* The last round, on more rows: two rounds on a few find the subspace, one on many of them makes
 * their noise small. Blocks of rows are products of their own, whatever thread has them. */
typedef struct {
    fn_km *km;
    float *memory;
    size_t stride; /* floats of a block: its product (d, p), rows (BLOCK_ROWS, ld), inside */
    int pass;
} refinement;

static int refine_next(void *context) { return ((refinement *)context)->pass++ ? -1 : BLOCKS; }

static void refine_run(void *context, int block, int thread) {
    refinement *r = context;
    fn_km *km = r->km;
    const int64_t d = km->d;
    const int p = km->p;
    float *product = r->memory + (size_t)block * r->stride, *rows = product + d * p;
    float *inside = rows + BLOCK_ROWS * km->ld;
    double *row = km->scratch + (size_t)thread * km->scratch_stride;
    fn_thread_report(thread);
    for (int at = MORE * block / BLOCKS; at < MORE * (block + 1) / BLOCKS; at += BLOCK_ROWS) {
        for (int i = 0; i < BLOCK_ROWS; i++)
            fn_km_load(km, km->n * (2 * (at + i) + 1) / (2 * MORE), NULL, 1, rows + i * km->ld,
                       km->ld, row);
        fn_sgemm(false, false, BLOCK_ROWS, p, d, rows, km->ld, km->basis, p, 0, inside, p);
        fn_sgemm(true, false, d, p, BLOCK_ROWS, rows, km->ld, inside, p, 1, product, p);
    }
}

/* v = more rows' @ (more rows @ v); v as it was if memory ends. */
static void refine(fn_km *km) {
    const size_t size = (size_t)(km->d * km->p);
    refinement r = {.km = km};
    r.stride = (size + BLOCK_ROWS * (size_t)(km->ld + km->p) + 15) / 16 * 16;
    r.memory = fn_alloc(BLOCKS * r.stride * sizeof(float));
    if (!r.memory) return;
    fn_parallel_run(fn_km_threads(km, (double)size * MORE * 0.06, 1),
                    &(fn_work_list){refine_next, refine_run, &r, 1e6, 0});
    memcpy(km->basis, r.memory, size * sizeof(float));
    for (int b = 1; b < BLOCKS; b++)
        for (size_t e = 0; e < size; e++) km->basis[e] += r.memory[(size_t)b * r.stride + e];
    fn_free(r.memory);
}

/* The share of the variance that lies outside of the basis, or 2, from rows between those that it
 * was made from: those would flatter it. sample (rows, ld) and inside (rows, p): room. */
static double share_outside(const fn_km *km, float *sample, int rows, float *inside) {
    const int p = km->p;
    double all = 0, kept = 0;
    for (int i = 0; i < rows; i++)
        fn_km_load(km, km->n * (4 * i + 1) / (4 * rows), NULL, 1, sample + i * km->ld, km->ld,
                   km->scratch);
    fn_sgemm(false, false, rows, p, km->d, sample, km->ld, km->basis, p, 0, inside, p);
    for (int i = 0; i < rows; i++) {
        for (int64_t j = 0; j < km->d; j++)
            all += (double)sample[i * km->ld + j] * (double)sample[i * km->ld + j];
        for (int l = 0; l < p; l++) kept += (double)inside[i * p + l] * (double)inside[i * p + l];
    }
    return all > 0 ? 1 - kept / all : 2;
}

/* A basis from `sample` (rows, ld); false where more than `most_outside` of its variance lies
 * outside. */
static bool find_basis(fn_km *km, float *sample, int rows, double most_outside, float *room) {
    const int p = km->p;
    const int64_t d = km->d;
    float *v = km->basis, *inside = room, *gram = inside + (int64_t)rows * p;
    double *factor = (double *)(gram + (int64_t)p * p);
    float *copy = (float *)(factor + (int64_t)p * (p + 1));
    memset(v, 0, (size_t)(d * p) * sizeof *v);
    add_noise(v, d * p, 1);
    for (int round = 0; round <= ROUNDS; round++) {
        if (round < ROUNDS) {
            fn_sgemm(false, false, rows, p, d, sample, km->ld, v, p, 0, inside, p);
            fn_sgemm(true, false, d, p, rows, sample, km->ld, inside, p, 0, v, p);
        } else {
            if (!(share_outside(km, sample, (rows + 1) / 2, inside) <= most_outside)) return false;
            if (km->n < 8 * MORE) break;
            refine(km);
        }
        add_noise(v, d * p, 1e-2 * root_mean_square(v, d * p));
        if (!orthonormalise(v, d, p, gram, factor, copy)) return false;
    }
    km->basis_error = basis_error(v, d, p, gram);
    return km->basis_error < 0.01;
}

/* Whether rows spread over nearly all directions alike, as white noise does: a millisecond's work
 * is saved. The squared cosine of two rows is 1 / (number of directions), on average; p directions
 * that hold 0.4 of the variance are part of at most p / 0.16. */
static bool is_noise(const fn_km *km, int p) {
    float products[PROBE * PROBE], *sample = fn_alloc(PROBE * (size_t)km->ld * sizeof *sample);
    double squares = 0, cosines = 0;
    if (!sample) return false;
    for (int i = 0; i < PROBE; i++)
        fn_km_load(km, km->n * (2 * i + 1) / (2 * PROBE), NULL, 1, sample + i * km->ld, km->ld,
                   km->scratch);
    fn_sgemm(false, true, PROBE, PROBE, km->d, sample, km->ld, sample, km->ld, 0, products, PROBE);
    for (int i = 0; i < PROBE; i++)
        for (int j = 0; j < i; j++) {
            const double x = (double)products[i * PROBE + j];
            cosines += x * x;
            squares += (double)products[i * PROBE + i] * (double)products[j * PROBE + j];
        }
    fn_free(sample);
    const double d = (double)km->d;
    return squares > cosines * (7 * p < 0.85 * d ? 7 * p : 0.85 * d);
}

/* Choose a basis of p columns; false (nothing changed) where none would pay or memory ends. */
bool fn_km_find_basis(fn_km *km, int p, double most_outside) {
    const int rows = km->n < SAMPLE ? (int)km->n : SAMPLE;
    if (most_outside < 1 && is_noise(km, p)) return false;
    km->p = p;
    const size_t d = (size_t)km->d, cols = (size_t)p;
    float *sample = fn_alloc((size_t)rows * (size_t)km->ld * sizeof *sample);
    float *room = fn_alloc((rows * cols + 3 * cols * cols + 2 * cols + d * cols) * sizeof *room);
    km->basis = fn_alloc(d * cols * sizeof *km->basis);
    double *row = fn_alloc(d * sizeof *row);
    bool found = false;
    if (sample && room && km->basis && row) {
        for (int i = 0; i < rows; i++)
            fn_km_load(km, km->n * i / rows, NULL, 1, sample + i * km->ld, km->ld, row);
        found = find_basis(km, sample, rows, most_outside, room);
    }
    fn_free(sample);
    fn_free(room);
    fn_free(row);
    if (found) {
        km->bytes += d * cols * sizeof *km->basis;
        return true;
    }
    fn_free(km->basis);
    km->basis = NULL;
    km->p = 0;
    return false;
}

/* Sums of at most so many products are added to each other: their rounding error is bounded by the
 * number of products in one and the number of sums. */
enum { PART = 112 };

double fn_km_part_error(int64_t d) {
    return (double)(d < PART ? d : PART) + (double)((d + PART - 1) / PART) + 4;
}

/* out (count, p) = rows (count, d) @ basis, in parts. Room: 2 MOST_ROWS (p + PAD) floats. */
void fn_km_project_points(const fn_km *km, const float *rows, int64_t ld, int64_t count, float *out,
                          int64_t out_ld, float *room) {
    const int p = km->p, lanes = km->kernel->lanes, group = km->kernel->group;
    const int64_t width = (p + lanes - 1) / lanes * lanes;
    float *sums = room, *part = room + group * width;
    for (int64_t at = 0; at < count; at += group) {
        const int n = count - at < group ? (int)(count - at) : group;
        for (int64_t c = 0; c < km->d; c += PART) {
            const float *x[FN_KM_MOST_ROWS];
            for (int i = 0; i < n; i++) x[i] = rows + (at + i) * ld + c;
            for (int l = 0; l < p; l += 2 * lanes) {
                const int panel = fn_panel_width(p, l, lanes);
                km->kernel->products(n, x, km->d - c < PART ? km->d - c : PART, NULL,
                                     km->basis_panels + l * km->d + c * panel, panel, NULL,
                                     (c ? part : sums) + l, width);
            }
            for (int64_t e = 0; c && e < n * width; e++) sums[e] += part[e];
        }
        for (int i = 0; i < n; i++)
            memcpy(out + (at + i) * out_ld, sums + i * width, (size_t)p * sizeof *out);
    }
}

/* What a projection of a row leaves out, at most: its length is at most `length`, of squares
 * `squares`; the projected row was `more` longer. */
float fn_km_left_out(const fn_km *km, const float *inside, double squares, double length,
                     double more) {
    const int p = km->p;
    const double slop =
        4 * (km->basis_error + (sqrt((double)p) * fn_km_part_error(km->d) + p) * 0x1p-24);
    double kept[4] = {0}; /* four sums, which need not wait for each other; p is a multiple of 8 */
    for (int l = 0; l < p; l += 4)
        for (int i = 0; i < 4; i++) kept[i] += (double)inside[l + i] * (double)inside[l + i];
    double left = squares - ((kept[0] + kept[1]) + (kept[2] + kept[3]));
    left = (left > 0 ? left : 0) + slop * length * (length + more);
    return (float)sqrt(left) * (1.0f + 0x1p-20f);
}

/* How wrong the projected score of a row may be, less the part of the centre. */
float fn_km_point_error(const fn_km *km, float squares) {
    return (sqrtf(squares) + km->raw_length) * km->error_root * (1.0f + 0x1p-20f);
}

/* Behind p coordinates: what they leave out, the error term, |x|^2. */
static void finish_point(const fn_km *km, float *point, double squares) {
    const int p = km->p;
    point[p] = fn_km_left_out(km, point, squares, sqrt(squares), (double)km->raw_length);
    point[p + 1] = fn_km_point_error(km, (float)squares);
    point[p + 2] = (float)squares;
}

/* Rows [first, first + count) to km->projected. */
void fn_km_project_rows(fn_km *km, int64_t first, int count, const float *rows,
                        const double *squares, float *room) {
    const int64_t ld = km->projected_ld;
    float *out = km->projected + first * ld;
    fn_km_project_points(km, rows, km->ld, count, out, ld, room);
    for (int i = 0; i < count; i++) finish_point(km, out + i * ld, squares[i]);
}

/* ---- rows where they lie: columns that are zero in a register tile of rows are left out ---- */

/* The basis in panels; in_place: for rows that are not centred as well. False if memory ends. */
bool fn_km_pack_basis(fn_km *km, bool in_place) {
    const int p = km->p, lanes = km->kernel->lanes;
    const int64_t d = km->d;
    km->basis_panels = fn_km_alloc(km, (size_t)(p + FN_KM_PAD) * (size_t)d * sizeof(float));
    if (in_place) km->basis_shift = fn_km_alloc(km, (size_t)p * sizeof(double));
    if (!km->basis_panels || (in_place && !km->basis_shift)) return false;
    double squares = 0;
    for (int64_t c = 0; c < d; c++) {
        squares += km->shift[c] * km->shift[c];
        for (int l = 0; l < p; l++) {
            const int width = fn_panel_width(p, l, lanes), panel = l / (2 * lanes) * (2 * lanes);
            km->basis_panels[panel * d + c * width + (l - panel)] = km->basis[c * p + l];
            if (in_place) km->basis_shift[l] += km->shift[c] * (double)km->basis[c * p + l];
        }
    }
    if (in_place) km->raw_length = (float)sqrt(squares) * (1.0f + 0x1p-20f);
    return true;
}

/* out (rows, ld) = x @ basis over the columns of `where` (NULL: all), a part at a time. */
static void multiply_basis(const fn_km *km, int rows, const float *const *x, int64_t used,
                           const int32_t *where, float *out, float *part, int64_t ld) {
    const int lanes = km->kernel->lanes;
    for (int64_t at = 0; at < used || at == 0; at += PART) {
        const int64_t count = used - at < PART ? used - at : PART;
        for (int l = 0; l < km->p; l += 2 * lanes) {
            const int width = fn_panel_width(km->p, l, lanes);
            km->kernel->products(rows, x, count, where + at, km->basis_panels + l * km->d, width,
                                 NULL, (at ? part : out) + l, ld);
        }
        if (!at) continue;
        for (int64_t e = 0; e < rows * ld; e++) out[e] += part[e];
    }
}

/* Rows [first, first + count) to km->projected. Room: for ld + PAD + 2 MOST_ROWS (p + PAD) floats.
 */
void fn_km_project_in_place(fn_km *km, int64_t first, int count, const double *squares,
                            float *room) {
    const int p = km->p, group = km->kernel->group;
    const int64_t ld = (p + km->kernel->lanes - 1) / km->kernel->lanes * km->kernel->lanes;
    int32_t *where = (int32_t *)room;
    float *sums = room + km->ld + FN_KM_PAD, *part = sums + group * ld;
    for (int at = 0; at < count; at += group) {
        const int rows = count - at < group ? count - at : group;
        const float *x[FN_KM_MOST_ROWS];
        float most;
        for (int i = 0; i < rows; i++)
            x[i] = (const float *)fn_km_row_start(&km->data, first + at + i);
        const int64_t used = km->kernel->columns(rows, x, km->d, where, &most);
        multiply_basis(km, rows, x, used, where, sums, part, ld);
        for (int i = 0; i < rows; i++) {
            float *point = km->projected + (first + at + i) * km->projected_ld;
            for (int l = 0; l < p; l++)
                point[l] = (float)((double)sums[i * ld + l] - km->basis_shift[l]);
            finish_point(km, point, squares[at + i]);
        }
    }
}
