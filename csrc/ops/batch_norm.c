/* batch_norm.c - y = (x - mean) / sqrt(var + epsilon) * gamma + beta per channel, the last axis
 * (Ioffe and Szegedy, 2015). Training takes mean and variance (of all, not all but one) of the
 * minibatch and moves the moving ones towards them; prediction takes those.
 *
 * What the whole minibatch has to say is gathered in lanes, forward (mean and squared deviations,
 * joined as in Chan, Golub and LeVeque, 1983) and back (sums of dy and of dy * xhat), each followed
 * by a merge: the segments that the engine cuts the chain into. The op's own memory: lanes, then
 * *patterns*, numbers per channel repeated for one more vector, so that a row is gone through as
 * one run of vectors whatever the number of channels.
 *
 * params: gamma (if scale), beta (if center), moving mean, moving variance.
 */
#include "kernels/level.h"

enum { MOMENTUM, EPSILON, SCALE, CENTER };

/* Patterns. Forward: y = x * FACTOR + SHIFT. Back: dx = dy * SLOPE + (x - MEAN) * PULL + PUSH. */
enum { FACTOR, SHIFT, MEAN, INVERSE, VARIANCE, SLOPE, PULL, PUSH, SUM_DY, SUM_DYX, PATTERNS };
/* Sums of a lane. */
enum { COUNT, LANE_MEAN, LANE_SQUARES, LANE_DY = LANE_MEAN, LANE_DYX = LANE_SQUARES, LANE_PARTS };

static int64_t channels_of(const fn_plan *plan, const fn_op *op) {
    const fn_buffer *b = &plan->buffers[op->in[0]];
    return b->rank ? b->shape[b->rank - 1] : 1;
}

/* Floats of a pattern, whole vectors of the widest level and of a parameter's padding. */
static int64_t stride_of(int64_t channels) {
    return (channels + 2 * FN_PAD + 2 * FN_PAD - 1) / (2 * FN_PAD) * (2 * FN_PAD);
}

static float *lane_of(const fn_call *call, const fn_op *op, int lane, int part, int64_t stride) {
    return (float *)(call->work->arena + op->copy_offset) + (lane * LANE_PARTS + part) * stride;
}

static float *pattern_of(const fn_call *call, const fn_op *op, int which, int64_t stride) {
    return lane_of(call, op, call->plan->lanes, 0, stride) + which * stride;
}

/* Where the next vector of a row begins in a pattern; `step` is LANES % channels. */
FN_INLINE int64_t next(int64_t at, int64_t step, int64_t channels) {
    at += step;
    return at >= channels ? at - channels : at;
}

static void repeat(float *pattern, int64_t channels) {
    for (int64_t i = channels; i < channels + LANES; i++) pattern[i] = pattern[i - channels];
}

/* ---- statistics ---- */

/* Sums over the pixels of a row, channel by channel, in order: of x and of (x - mean)^2. */
static void row_moments(int64_t pixels, int64_t channels, const float *x, float *mean,
                        float *squares) {
    const float share = 1 / (float)pixels;
    for (int64_t c = 0; c < channels; c += LANES) {
        vf sum = v_set(0), square = v_set(0);
        for (int64_t p = 0; p < pixels; p++) sum += v_load(x + p * channels + c);
        sum *= share;
        for (int64_t p = 0; p < pixels; p++) {
            const vf d = v_load(x + p * channels + c) - sum;
            square = v_fma(d, d, square);
        }
        v_store(mean + c, sum);
        v_store(squares + c, square);
    }
}

static void stats(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    const int64_t pixels = call->plan->buffers[op->in[0]].cols / channels;
    float *count = lane_of(call, op, tile.lane, COUNT, stride),
          *mean = lane_of(call, op, tile.lane, LANE_MEAN, stride),
          *squares = lane_of(call, op, tile.lane, LANE_SQUARES, stride);
    float *row_mean = fn_scratch(call, tile), *row_squares = row_mean + stride;
    for (int r = tile.r0; r < tile.r1; r++) {
        const bool first = tile.first && r == tile.r0;
        const float *x = fn_row(call, tile, op->in[0], r);
        if (first) *count = 0;
        row_moments(pixels, channels, x, first ? mean : row_mean, first ? squares : row_squares);
        const float before = *count, all = before + (float)pixels, share = (float)pixels / all,
                    between = before * share;
        *count = all;
        for (int64_t c = 0; c < channels && !first; c += LANES) {
            const vf d = v_load(row_mean + c) - v_load(mean + c);
            v_store(mean + c, v_fma(d, v_set(share), v_load(mean + c)));
            v_store(squares + c,
                    v_fma(d * d, v_set(between), v_load(squares + c) + v_load(row_squares + c)));
        }
    }
}

static float weight_of(const fn_call *call, const fn_op *op, int which, int64_t c) {
    const int scale = op->attr[SCALE] != 0;
    if (which == SCALE) return scale ? fn_weights(call, op, 0)[c] : 1;
    return op->attr[CENTER] != 0 ? fn_weights(call, op, scale)[c] : 0;
}

/* Where the moving mean lies among the parameters; the moving variance is the next one. */
static int moving_of(const fn_op *op) { return (op->attr[SCALE] != 0) + (op->attr[CENTER] != 0); }

static void fill_forward(const fn_call *call, const fn_op *op, int64_t channels, const float *mean,
                         const float *variance, float *factor, float *shift, float *inverse) {
    for (int64_t c = 0; c < channels; c++) {
        const float by = 1 / sqrtf(variance[c] + (float)op->attr[EPSILON]);
        factor[c] = weight_of(call, op, SCALE, c) * by;
        shift[c] = weight_of(call, op, CENTER, c) - mean[c] * factor[c];
        if (inverse) inverse[c] = by;
    }
    repeat(factor, channels);
    repeat(shift, channels);
}

/* Lanes are joined in order, in double precision. */
static void merge(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    float *mean = pattern_of(call, op, MEAN, stride),
          *variance = pattern_of(call, op, VARIANCE, stride);
    for (int64_t c = 0; c < channels; c++) {
        double n = 0, m = 0, squares = 0;
        for (int l = 0, r0, r1; l < call->plan->lanes; l++) {
            fn_lane_rows(call->plan, call->rows, l, &r0, &r1);
            if (r0 == r1) continue;
            const double more = *lane_of(call, op, l, COUNT, stride), all = n + more;
            const double d = lane_of(call, op, l, LANE_MEAN, stride)[c] - m;
            m += d * more / all;
            squares += lane_of(call, op, l, LANE_SQUARES, stride)[c] + d * d * n * more / all;
            n = all;
        }
        mean[c] = (float)m;
        variance[c] = (float)(squares / n);
    }
    repeat(mean, channels);
    fill_forward(call, op, channels, mean, variance, pattern_of(call, op, FACTOR, stride),
                 pattern_of(call, op, SHIFT, stride), pattern_of(call, op, INVERSE, stride));
    (void)tile;
}

/* ---- forward ---- */

/* Prediction: factor and shift from the moving statistics, once a minibatch in each thread. */
static const float *moving_patterns(const fn_call *call, const fn_op *op, fn_tile tile,
                                    int64_t channels, int64_t stride) {
    bool fresh;
    float *patterns = fn_local(call, op, tile, &fresh);
    const int moving = moving_of(op);
    if (!fresh)
        fill_forward(call, op, channels, fn_weights(call, op, moving),
                     fn_weights(call, op, moving + 1), patterns, patterns + stride, NULL);
    return patterns;
}

/* The same for whoever it is folded into. */
static void scale(const fn_call *call, const fn_op *op, float *factor, float *offset) {
    const int moving = moving_of(op);
    fill_forward(call, op, channels_of(call->plan, op), fn_weights(call, op, moving),
                 fn_weights(call, op, moving + 1), factor, offset, NULL);
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    const int64_t cols = call->plan->buffers[op->out[0]].cols,
                  end = tile.c1 < cols ? tile.c1 : cols;
    const bool train = call->plan->options.mode == FN_TRAIN;
    const float *factor = train ? pattern_of(call, op, FACTOR, stride)
                                : moving_patterns(call, op, tile, channels, stride);
    const float *shift = factor + stride;
    const int64_t step = LANES % channels;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        int64_t at = tile.c0 % channels;
        for (int64_t i = tile.c0; i < end; i += LANES, at = next(at, step, channels))
            v_store(y + i, v_fma(v_load(x + i), v_load(factor + at), v_load(shift + at)));
    }
}

/* ---- backward ---- */

/* A lane's sums of dy and of dy * (x - mean) / deviation: the gradients of beta and gamma. */
static void stats_back(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    const int64_t pixels = call->plan->buffers[op->in[0]].cols / channels;
    const float *mean = pattern_of(call, op, MEAN, stride),
                *inverse = pattern_of(call, op, INVERSE, stride);
    float *sum = lane_of(call, op, tile.lane, LANE_DY, stride),
          *product = lane_of(call, op, tile.lane, LANE_DYX, stride);
    for (int r = tile.r0; r < tile.r1; r++) {
        const bool first = tile.first && r == tile.r0;
        const float *x = fn_row(call, tile, op->in[0], r),
                    *dy = fn_gradient_row(call, tile, op->out[0], r);
        for (int64_t c = 0; c < channels; c += LANES) {
            const vf m = v_load(mean + c);
            vf a = v_set(0), b = v_set(0);
            for (int64_t p = 0; p < pixels; p++) {
                const vf d = v_load(dy + p * channels + c);
                a += d;
                b = v_fma(d, v_load(x + p * channels + c) - m, b);
            }
            b *= v_load(inverse + c);
            v_store(sum + c, first ? a : v_load(sum + c) + a);
            v_store(product + c, first ? b : v_load(product + c) + b);
        }
    }
}

static void merge_back(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    const double share =
        (double)channels / ((double)call->plan->buffers[op->in[0]].cols * (double)call->rows);
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, product = 0;
        for (int l = 0, r0, r1; l < call->plan->lanes; l++) {
            fn_lane_rows(call->plan, call->rows, l, &r0, &r1);
            if (r0 == r1) continue;
            sum += lane_of(call, op, l, LANE_DY, stride)[c];
            product += lane_of(call, op, l, LANE_DYX, stride)[c];
        }
        const double inverse = pattern_of(call, op, INVERSE, stride)[c],
                     slope = weight_of(call, op, SCALE, c) * inverse;
        pattern_of(call, op, SUM_DY, stride)[c] = (float)sum;
        pattern_of(call, op, SUM_DYX, stride)[c] = (float)product;
        pattern_of(call, op, SLOPE, stride)[c] = (float)slope;
        pattern_of(call, op, PULL, stride)[c] = (float)(-slope * inverse * product * share);
        pattern_of(call, op, PUSH, stride)[c] = (float)(-slope * sum * share);
    }
    for (int which = SLOPE; which <= PUSH; which++)
        repeat(pattern_of(call, op, which, stride), channels);
    (void)tile;
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    const int64_t cols = call->plan->buffers[op->in[0]].cols, step = LANES % channels;
    const float *slope = pattern_of(call, op, SLOPE, stride),
                *pull = pattern_of(call, op, PULL, stride),
                *push = pattern_of(call, op, PUSH, stride),
                *mean = pattern_of(call, op, MEAN, stride);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r),
                    *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        int64_t at = 0;
        for (int64_t i = 0; i < cols; i += LANES, at = next(at, step, channels)) {
            const vf rest =
                v_fma(v_load(x + i) - v_load(mean + at), v_load(pull + at), v_load(push + at));
            v_store(dx + i, v_fma(v_load(dy + i), v_load(slope + at), rest));
        }
        /* PUSH does not vanish where dy does: padding would train the padding of weights before */
        for (int64_t i = cols; i % LANES; i++) dx[i] = 0;
    }
}

/* ---- parameters ---- */

static void update(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t stride = stride_of(channels_of(call->plan, op));
    const int scale = op->attr[SCALE] != 0;
    for (int i = 0; i < moving_of(op); i++) {
        const int sum = i == 0 && scale ? SUM_DYX : SUM_DY;
        fn_sink(call, op, i, 0, (int64_t)call->plan->params[op->params[i]].size,
                pattern_of(call, op, sum, stride));
    }
    (void)tile;
}

/* The moving statistics follow, once nothing can go wrong with the step any more. */
static void finish(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_plan_options *options = &call->plan->options;
    if (options->mode != FN_TRAIN || options->update == FN_UPDATE_NONE) return;
    const int64_t channels = channels_of(call->plan, op), stride = stride_of(channels);
    const float keep = (float)op->attr[MOMENTUM], take = (float)(1 - op->attr[MOMENTUM]);
    for (int i = 0; i < 2; i++) {
        float *moving = fn_weights(call, op, moving_of(op) + i);
        const float *now = pattern_of(call, op, i ? VARIANCE : MEAN, stride);
        for (int64_t c = 0; c < channels; c++) moving[c] = moving[c] * keep + now[c] * take;
    }
    (void)tile;
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    const int64_t channels = channels_of(plan, op), stride = stride_of(channels);
    const int moving = moving_of(op);
    if (in->dtype != FN_F32 || out->dtype != FN_F32) return "float32 rows are wanted";
    if (in->cols != out->cols) return "input and output differ";
    if (op->n_params != moving + 2) return "gamma, beta, moving mean and variance are wanted";
    for (int i = 0; i < op->n_params; i++)
        if (plan->params[op->params[i]].count != channels) return "a parameter is not (channels,)";
    if (plan->params[op->params[moving]].trainable ||
        plan->params[op->params[moving + 1]].trainable)
        return "moving statistics are not trained";
    if (!(op->attr[EPSILON] > 0)) return "epsilon is not positive";
    op->flops = 4.0 * (double)in->cols;
    op->slices = 1;
    if (plan->options.mode != FN_TRAIN) {
        op->flags = FN_ELEMENTWISE;
        op->local = (size_t)(2 * stride + FN_PAD);
        return NULL;
    }
    op->scratch = (size_t)(2 * stride);
    op->copy_bytes =
        (size_t)((FN_LANES_A_PART * plan->options.lanes * LANE_PARTS + PATTERNS) * stride) *
        sizeof(float);
    return NULL;
}

static const fn_attribute attributes[] = {{"momentum", FN_ATTR_NUMBER, 0.99},
                                          {"epsilon", FN_ATTR_NUMBER, 1e-3},
                                          {"scale", FN_ATTR_NUMBER, 1},
                                          {"center", FN_ATTR_NUMBER, 1}};

const fn_op_impl FN_LEVELED(batch_norm) = {
    .attributes = attributes,
    .n_attributes = 4,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 4,
    .flags = FN_NEEDS_INPUT | FN_CHEAP,
    .check = check,
    .stats = stats,
    .merge = merge,
    .forward = forward,
    .stats_back = stats_back,
    .merge_back = merge_back,
    .backward = backward,
    .update = update,
    .finish = finish,
    .scale = scale,
};
