/* dropout.c - y = x * mask / (1 - rate): inverted dropout (Srivastava et al., JMLR 2014), training
 * only.
 *
 * The mask of an element depends on the seed, the step, the op and the element's place alone, so
 * backward draws it again instead of keeping it.
 */
#include "kernels/draw.h"

enum { RATE };

static void apply(const fn_call *call, const fn_op *op, fn_tile tile, bool back) {
    const float scale = 1 / (1 - (float)op->attr[RATE]);
    const uint32_t limit = draw_limit(op->attr[RATE]);
    const int64_t end = tile_end(tile, fn_ld(call, op->out[0]));
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = source_row(call, op, tile, back, r);
        float *y = target_row(call, op, tile, back, r);
        for (int64_t c = tile.c0 / DRAW_BLOCK * DRAW_BLOCK; c < end; c += DRAW_BLOCK) {
            uint32_t words[DRAW_BLOCK];
            draw_block(call, op, r, c, words);
            const int64_t low = c < tile.c0 ? tile.c0 : c;
            const int64_t high = c + DRAW_BLOCK < end ? c + DRAW_BLOCK : end;
            for (int64_t i = low; i < high; i++) y[i] = words[i - c] < limit ? 0 : x[i] * scale;
        }
    }
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    apply(call, op, tile, false);
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    apply(call, op, tile, true);
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!(op->attr[RATE] >= 0 && op->attr[RATE] < 1)) return "the rate is not in [0, 1)";
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    op->flops = 40.0 * (double)plan->buffers[op->in[0]].cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"rate", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(dropout) = {
    .attributes = attributes,
    .n_attributes = 1,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
