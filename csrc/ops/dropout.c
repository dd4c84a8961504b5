/* dropout.c - y = x * mask / (1 - rate): inverted dropout (Srivastava et al., JMLR 2014), training
 * only.
 *
 * The mask of an element depends on the seed, the step, the op and the element's place alone, so
 * backward draws it again instead of keeping it.
 */
#include "kernels/level.h"
#include "kernels/philox.h"

enum { RATE };

enum { BLOCK = 64 }; /* columns drawn at once: 16 counters */

/* Random words of columns [c, c + BLOCK) of a row, four a counter. */
static void draw(const fn_call *call, const fn_op *op, int row, int64_t c, uint32_t *words) {
    const uint64_t step = (uint64_t)(call->args->step + call->step),
                   stream = step << 16 | (uint64_t)(op - call->plan->ops);
    uint32_t w[4][BLOCK / 4];
    for (int i = 0; i < BLOCK / 4;
         i++) { /* independent counters: the compiler runs them side by side */
        const fn_philox4 p =
            fn_philox(call->args->seed, stream, (uint64_t)row << 32 | (uint64_t)(c / 4 + i));
        for (int j = 0; j < 4; j++) w[j][i] = p.v[j];
    }
    for (int j = 0; j < 4; j++) memcpy(words + j * (BLOCK / 4), w[j], sizeof w[j]);
}

static void apply(const fn_call *call, const fn_op *op, fn_tile tile, bool gradient) {
    const float rate = (float)op->attr[RATE], scale = 1 / (1 - rate);
    const uint32_t limit = (uint32_t)(op->attr[RATE] * 4294967295.0);
    const int64_t ld = call->plan->buffers[op->out[0]].ld;
    const int from = gradient ? op->out[0] : op->in[0], to = gradient ? op->in[0] : op->out[0];
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x =
            gradient ? fn_gradient_row(call, tile, from, r) : fn_row(call, tile, from, r);
        float *y = gradient ? fn_gradient_row(call, tile, to, r) : fn_row(call, tile, to, r);
        const int64_t end = tile_end(tile, ld);
        for (int64_t c = tile.c0 / BLOCK * BLOCK; c < end; c += BLOCK) {
            uint32_t words[BLOCK];
            draw(call, op, r, c, words);
            const int64_t low = c < tile.c0 ? tile.c0 : c, high = c + BLOCK < end ? c + BLOCK : end;
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
    if (!fn_is_f32(plan, op->in[0]) || !fn_is_f32(plan, op->out[0]))
        return "float32 rows are wanted";
    if (plan->buffers[op->in[0]].cols != plan->buffers[op->out[0]].cols)
        return "input and output differ";
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
    .flags = FN_ELEMENTWISE,
    .check = check,
    .forward = forward,
    .backward = backward,
};
