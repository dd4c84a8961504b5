/* activation.c - y = f(x) elementwise for every line of activations.def, in place where the
 * derivative can be written in y.
 */
#include "kernels/level.h"

enum { FUNCTION, SLOPE };
enum { FN_FROM_OUTPUT, FN_FROM_INPUT };

typedef struct {
    int uses;
    void (*forward)(int64_t n, float slope, const float *x, float *y);
    /* xy: the input or the output, as `uses` says; dx may be dy */
    void (*backward)(int64_t n, float slope, const float *xy, const float *dy, float *dx);
} function;

#define FN_ACTIVATION(name, uses, value, derivative)                                        \
    static void name##_forward(int64_t n, float slope, const float *in, float *out) {       \
        for (int64_t i = 0; i < n; i += LANES) {                                            \
            const vf x = v_load(in + i);                                                    \
            v_store(out + i, value);                                                        \
        }                                                                                   \
        (void)slope;                                                                        \
    }                                                                                       \
    static void name##_backward(int64_t n, float slope, const float *xy, const float *dout, \
                                float *din) {                                               \
        for (int64_t i = 0; i < n; i += LANES) {                                            \
            const vf x = v_load(xy + i), y = x, dy = v_load(dout + i);                      \
            v_store(din + i, derivative);                                                   \
            (void)x, (void)y;                                                               \
        }                                                                                   \
        (void)slope;                                                                        \
    }
#include "activations.def"
#undef FN_ACTIVATION

#define FN_ACTIVATION(name, uses, value, derivative) {uses, name##_forward, name##_backward},
static const function functions[] = {
#include "activations.def"
};
#undef FN_ACTIVATION

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const function *f = &functions[(int)op->attr[FUNCTION]];
    const float slope = (float)op->attr[SLOPE];
    const int64_t ldx = fn_ld(call, op->in[0]), ldy = fn_ld(call, op->out[0]);
    const float *x = fn_row(call, tile, op->in[0], tile.r0) + tile.c0;
    float *y = fn_row(call, tile, op->out[0], tile.r0) + tile.c0;
    const int rows = tile.r1 - tile.r0, n = tile_end(tile, ldy) - tile.c0;
    if (n == ldy && ldx == ldy) {
        f->forward((int64_t)rows * ldy, slope, x, y);
        return;
    }
    for (int r = 0; r < rows; r++) f->forward(n, slope, x + r * ldx, y + r * ldy);
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const function *f = &functions[(int)op->attr[FUNCTION]];
    const float slope = (float)op->attr[SLOPE];
    const int64_t ld = call->plan->buffers[op->out[0]].ld;
    const float *xy =
        fn_row(call, tile, f->uses == FN_FROM_OUTPUT ? op->out[0] : op->in[0], tile.r0) + tile.c0;
    const float *dy = fn_gradient_row(call, tile, op->out[0], tile.r0) + tile.c0;
    float *dx = fn_gradient_row(call, tile, op->in[0], tile.r0) + tile.c0;
    const int rows = tile.r1 - tile.r0, n = tile_end(tile, ld) - tile.c0;
    if (n == ld) {
        f->backward((int64_t)rows * ld, slope, xy, dy, dx);
        return;
    }
    for (int r = 0; r < rows; r++) f->backward(n, slope, xy + r * ld, dy + r * ld, dx + r * ld);
}

static const char *check(fn_plan *plan, fn_op *op) {
    const function *f = &functions[(int)op->attr[FUNCTION]];
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    if (!(op->attr[SLOPE] >= 0 && isfinite(op->attr[SLOPE]))) return "the slope is negative";
    op->flags |= f->uses == FN_FROM_OUTPUT ? FN_NEEDS_OUTPUT : FN_NEEDS_INPUT;
    op->flops = 4.0 * (double)plan->buffers[op->in[0]].cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"function", FN_ATTR_ACTIVATION, 0},
                                          {"slope", FN_ATTR_NUMBER, 0.2}};

const fn_op_impl FN_LEVELED(activation) = {
    .attributes = attributes,
    .n_attributes = 2,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
