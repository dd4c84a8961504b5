/* input.c - y (n, cols) = rows of a source, converted, scaled (v * scale + offset) and checked for
 * NaN and infinity. Reads the next minibatch while this one trains. float32 rows may be used where
 * they lie; CSR rows are spread over their columns.
 *
 * With `mixup` a, row r becomes share * row r + (1 - share) * another row of the minibatch, share
 * being Beta(a, a) (Zhang et al., mixup, ICLR 2018). All sources of a step draw the same shares and
 * partners; classes become one-hot rows first (`classes` columns each).
 */
#include "kernels/bad_input.h"
#include "kernels/philox.h"
#include "kernels/sparse_row.h"

enum { SOURCE, SCALE, OFFSET, MIXUP, CLASSES };
enum { STREAM = 0xffff }; /* of the random numbers: no op has this number */

static const fn_attribute attributes[] = {{"source", FN_ATTR_NUMBER, 0},
                                          {"scale", FN_ATTR_NUMBER, 1},
                                          {"offset", FN_ATTR_NUMBER, 0},
                                          {"mixup", FN_ATTR_NUMBER, 0},
                                          {"classes", FN_ATTR_NUMBER, 0}};

static void convert_f32(const void *row, fn_dtype dtype, int64_t n, float *y) {
    switch (dtype) {
    case FN_F32: memcpy(y, row, (size_t)n * sizeof(float)); break;
    case FN_F64:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const double *)row)[i];
        break;
    case FN_I32:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const int32_t *)row)[i];
        break;
    case FN_I64:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const int64_t *)row)[i];
        break;
    case FN_U8:
    case FN_BOOL:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const uint8_t *)row)[i];
        break;
    case FN_I8:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const int8_t *)row)[i];
        break;
    }
}

static void convert_i32(const void *row, fn_dtype dtype, int64_t n, int32_t *y) {
    for (int64_t i = 0; i < n; i++) {
        switch (dtype) {
        case FN_F32: y[i] = (int32_t)((const float *)row)[i]; break;
        case FN_F64: y[i] = (int32_t)((const double *)row)[i]; break;
        case FN_I32: y[i] = ((const int32_t *)row)[i]; break;
        case FN_I64: y[i] = (int32_t)((const int64_t *)row)[i]; break;
        case FN_U8:
        case FN_BOOL: y[i] = ((const uint8_t *)row)[i]; break;
        case FN_I8: y[i] = ((const int8_t *)row)[i]; break;
        }
    }
}

/* ---- mixup ---- */

static double uniform(uint32_t word) { return (word + 0.5) * 0x1p-32; }

/* Beta(a, a): Joehnk's pairs for a < 1, of which at least half are taken; Ulrich's formula above.
 */
static double draw_share(const fn_call *call, uint64_t stream, int row, double a) {
    for (uint64_t k = 0; k < 64; k++) {
        const fn_philox4 p = fn_philox(call->args->seed, stream, (uint64_t)row << 32 | k);
        const double u = uniform(p.v[0]), v = uniform(p.v[1]);
        if (a >= 1)
            return 0.5 + 0.5 * sqrt(1 - pow(u, 2 / (2 * a - 1))) * cos(6.283185307179586 * v);
        const double x = log(u) / a, y = log(v) / a; /* logarithms: u^(1/a) may underflow */
        if (exp(x) + exp(y) <= 1) return 1 / (1 + exp(y - x));
    }
    return 1;
}

/* The partner of row r: so many rows on in the minibatch, the same distance for all. */
static int draw_partner(const fn_call *call, uint64_t stream, int row, int rows) {
    const fn_philox4 p = fn_philox(call->args->seed, stream, UINT64_MAX);
    const int distance = rows > 1 ? 1 + (int)(uniform(p.v[0]) * (rows - 1)) : 0;
    return (row + distance) % rows;
}

/* ---- rows ---- */

/* The row of the source at this place in the order: as numbers, or as one-hot classes. */
static void read_row(const fn_call *call, const fn_op *op, int64_t place, int32_t *labels,
                     float *y) {
    const fn_run_args *args = call->args;
    const fn_source *source = &args->sources[(int)op->attr[SOURCE]];
    const int64_t cols = call->plan->buffers[op->out[0]].cols, classes = (int64_t)op->attr[CLASSES];
    const int64_t row = args->order ? args->order[place] : place;
    const char *data = (const char *)source->data + (size_t)row * source->row_bytes;
    if (classes > 0) {
        convert_i32(data, source->dtype, cols / classes, labels);
        memset(y, 0, (size_t)cols * sizeof *y);
        for (int64_t i = 0; i < cols / classes; i++)
            if (labels[i] >= 0 && labels[i] < classes) y[i * classes + labels[i]] = 1;
        return;
    }
    bool check = source->dtype == FN_F32 || source->dtype == FN_F64;
    if (source->indptr)
        check = !spread_row(source, row, cols, y);
    else
        convert_f32(data, source->dtype, cols, y);
    if (check) report_bad_input(call, op, place, cols, y);
    const float scale = (float)op->attr[SCALE], offset = (float)op->attr[OFFSET];
    if (scale != 1 || offset != 0)
        for (int64_t i = 0; i < cols; i++) y[i] = y[i] * scale + offset;
}

static void mix(const fn_call *call, const fn_op *op, fn_tile tile, int r, float *y) {
    const int64_t cols = call->plan->buffers[op->out[0]].cols;
    const int rows = tile.ahead ? call->rows_ahead : call->rows;
    const int64_t first = tile.ahead ? call->first_ahead : call->first;
    const uint64_t step = (uint64_t)(call->args->step + call->step + tile.ahead);
    const uint64_t stream = step << 16 | STREAM;
    float *other = fn_scratch(call, tile);
    read_row(call, op, first + draw_partner(call, stream, r, rows), (int32_t *)(other + cols),
             other);
    const float share = (float)draw_share(call, stream, r, op->attr[MIXUP]);
    for (int64_t i = 0; i < cols; i++) y[i] = other[i] + share * (y[i] - other[i]);
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_run_args *args = call->args;
    const fn_source *source = &args->sources[(int)op->attr[SOURCE]];
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t first = tile.ahead ? call->first_ahead : call->first;
    for (int r = tile.r0; r < tile.r1; r++) {
        const int64_t place = first + r, row = args->order ? args->order[place] : place;
        const char *data = (const char *)source->data + (size_t)row * source->row_bytes;
        char *out = fn_row_bytes(call, tile, op->out[0], r);
        if (b->dtype == FN_I32) {
            convert_i32(data, source->dtype, b->cols, (int32_t *)out);
        } else if (call->work->in_place[op->out[0]]) {
            /* whoever reads them first checks them: bad_input.h */
            fn_rows(call, tile, op->out[0])[r - tile.r0] = (const float *)data;
        } else {
            read_row(call, op, place, (int32_t *)(fn_scratch(call, tile) + b->cols), (float *)out);
            if (op->attr[MIXUP] > 0) mix(call, op, tile, r, (float *)out);
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_dtype dtype = plan->buffers[op->out[0]].dtype;
    if (dtype != FN_F32 && dtype != FN_I32) return "rows are read as float32 or int32";
    if (!(op->attr[SOURCE] >= 0 && op->attr[SOURCE] < FN_MAX_SOURCES))
        return "there is no such source";
    const int64_t cols = plan->buffers[op->out[0]].cols, classes = (int64_t)op->attr[CLASSES];
    if (!(op->attr[MIXUP] >= 0)) return "mixup is negative";
    if (dtype == FN_I32 && (op->attr[MIXUP] > 0 || classes))
        return "classes cannot be mixed: they are wanted as one-hot float32 rows";
    if (classes < 0 || (classes && cols % classes)) return "rows do not fit the number of classes";
    if (op->attr[MIXUP] > 0 || classes) op->scratch = 2 * (size_t)cols;
    if (op->attr[SOURCE] >= plan->n_sources) plan->n_sources = (int)op->attr[SOURCE] + 1;
    return NULL;
}

const fn_op_impl FN_LEVELED(input) = {
    .attributes = attributes,
    .n_attributes = 5,
    .n_outputs = 1,
    .flags = FN_SOURCE,
    .check = check,
    .forward = forward,
};
