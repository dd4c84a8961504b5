/* input.c - y (n, cols) = rows of a source, converted, scaled (v * scale + offset) and checked for
 * NaN and infinity. Reads the next minibatch while this one trains. float32 rows may be used where
 * they lie.
 */
#include "kernels/bad_input.h"

enum { SOURCE, SCALE, OFFSET };

static const fn_attribute attributes[] = {
    {"source", FN_ATTR_NUMBER, 0}, {"scale", FN_ATTR_NUMBER, 1}, {"offset", FN_ATTR_NUMBER, 0}};

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

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_run_args *args = call->args;
    const fn_source *source = &args->sources[(int)op->attr[SOURCE]];
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t first = tile.ahead ? call->first_ahead : call->first;
    const float scale = (float)op->attr[SCALE], offset = (float)op->attr[OFFSET];
    for (int r = tile.r0; r < tile.r1; r++) {
        const int64_t place = first + r, row = args->order ? args->order[place] : place;
        const char *data = (const char *)source->data + (size_t)row * source->row_bytes;
        char *out = fn_row_bytes(call, tile, op->out[0], r);
        if (b->dtype == FN_I32) {
            convert_i32(data, source->dtype, b->cols, (int32_t *)out);
            continue;
        }
        float *y = (float *)out;
        if (call->work
                ->in_place[op->out[0]]) { /* whoever reads them first checks them: bad_input.h */
            fn_rows(call, tile, op->out[0])[r - tile.r0] = (const float *)data;
            continue;
        }
        convert_f32(data, source->dtype, b->cols, y);
        if (source->dtype == FN_F32 || source->dtype == FN_F64)
            report_bad_input(call, op, place, b->cols, y);
        if (scale != 1 || offset != 0)
            for (int64_t i = 0; i < b->cols; i++) y[i] = y[i] * scale + offset;
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_dtype dtype = plan->buffers[op->out[0]].dtype;
    if (dtype != FN_F32 && dtype != FN_I32) return "rows are read as float32 or int32";
    if (!(op->attr[SOURCE] >= 0 && op->attr[SOURCE] < FN_MAX_SOURCES))
        return "there is no such source";
    if (op->attr[SOURCE] >= plan->n_sources) plan->n_sources = (int)op->attr[SOURCE] + 1;
    return NULL;
}

const fn_op_impl FN_LEVELED(input) = {
    .attributes = attributes,
    .n_attributes = 3,
    .n_outputs = 1,
    .flags = FN_SOURCE,
    .check = check,
    .forward = forward,
};
