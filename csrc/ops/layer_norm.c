/* layer_norm.c - y = (x - mean) / sqrt(var + epsilon) * gamma + beta, mean and variance over the
 * last axis (Ba, Kiros and Hinton, 2016): each pixel, step or row for itself.
 *
 * Two passes: squares of differences from the mean lose nothing where the mean is large. Backward
 * computes both again, the values being in cache then.
 */
#include "kernels/image.h"

enum { EPSILON, SCALE, CENTER };

typedef struct {
    int64_t n; /* values that are normalised together */
    float epsilon;
    const float *gamma, *beta; /* (n,), or NULL */
} norm;

static norm norm_of(const fn_call *call, const fn_op *op) {
    const fn_buffer *b = &call->plan->buffers[op->in[0]];
    const bool scale = op->attr[SCALE] != 0;
    return (norm){b->shape[b->rank - 1], (float)op->attr[EPSILON],
                  scale ? fn_weights(call, op, 0) : NULL,
                  op->attr[CENTER] != 0 ? fn_weights(call, op, scale) : NULL};
}

/* ---- sums of n values: whole vectors in two sums, then what is left in order ---- */

static float mean_of(int64_t n, const float *x) {
    vf a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) a += v_load(x + i), b += v_load(x + i + LANES);
    float sum = n < 2 * LANES ? 0 : v_sum(a + b);
    for (; i < n; i++) sum += x[i];
    return sum / (float)n;
}

static float variance_of(int64_t n, const float *x, float mean) {
    const vf m = v_set(mean);
    vf a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const vf p = v_load(x + i) - m, q = v_load(x + i + LANES) - m;
        a = v_fma(p, p, a), b = v_fma(q, q, b);
    }
    float sum = n < 2 * LANES ? 0 : v_sum(a + b);
    for (; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    return sum / (float)n;
}

/* g = dy * gamma; the means of g and of g * (x - mean). */
static void means_back(const norm *k, const float *x, float mean, const float *dy, float *g,
                       float *of_g, float *of_product) {
    const vf m = v_set(mean);
    const int64_t n = k->n;
    vf a = {0}, b = {0};
    for (int64_t i = 0; i < n; i++) g[i] = k->gamma ? dy[i] * k->gamma[i] : dy[i];
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf gi = v_load(g + i);
        a += gi, b = v_fma(gi, v_load(x + i) - m, b);
    }
    float sum = n < LANES ? 0 : v_sum(a), product = n < LANES ? 0 : v_sum(b);
    for (; i < n; i++) sum += g[i], product += g[i] * (x[i] - mean);
    *of_g = sum / (float)n;
    *of_product = product / (float)n;
}

static float statistics(const norm *k, const float *x, float *inverse) {
    const float mean = mean_of(k->n, x);
    *inverse = 1 / sqrtf(variance_of(k->n, x, mean) + k->epsilon);
    return mean;
}

/* ---- passes ---- */

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op);
    const int64_t cols = call->plan->buffers[op->in[0]].cols;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int64_t c = 0; c < cols; c += k.n, x += k.n, y += k.n) {
            float inverse;
            const float mean = statistics(&k, x, &inverse);
            if (k.gamma && k.beta)
                for (int64_t i = 0; i < k.n; i++)
                    y[i] = (x[i] - mean) * inverse * k.gamma[i] + k.beta[i];
            else
                for (int64_t i = 0; i < k.n; i++)
                    y[i] = (x[i] - mean) * inverse * (k.gamma ? k.gamma[i] : 1) +
                           (k.beta ? k.beta[i] : 0);
        }
    }
}

/* dgamma += dy * (x - mean) / std, dbeta += dy */
static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op);
    const int64_t cols = call->plan->buffers[op->in[0]].cols;
    float *lane = fn_lane(call, op, tile.lane);
    float *dgamma = k.gamma ? lane : NULL;
    float *dbeta = k.beta ? lane + fn_lane_offset(call->plan, op, k.gamma != NULL) : NULL;
    if (tile.first) memset(lane, 0, op->lane * sizeof(float));
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        for (int64_t c = 0; c < cols; c += k.n, x += k.n, dy += k.n) {
            if (dgamma) {
                float inverse;
                const float mean = statistics(&k, x, &inverse);
                for (int64_t i = 0; i < k.n; i++) dgamma[i] += (x[i] - mean) * inverse * dy[i];
            }
            if (dbeta)
                for (int64_t i = 0; i < k.n; i++) dbeta[i] += dy[i];
        }
    }
}

/* dx = (g - mean(g) - z * mean(g * z)) / std with g = dy * gamma, z = (x - mean) / std */
static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op);
    const int64_t cols = call->plan->buffers[op->in[0]].cols;
    float *g = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        for (int64_t c = 0; c < cols; c += k.n, x += k.n, dy += k.n, dx += k.n) {
            float inverse, of_g, of_product;
            const float mean = statistics(&k, x, &inverse);
            means_back(&k, x, mean, dy, g, &of_g, &of_product);
            const float slope = of_product * inverse * inverse;
            for (int64_t i = 0; i < k.n; i++)
                dx[i] = (g[i] - of_g - (x[i] - mean) * slope) * inverse;
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    if (!fn_is_f32(plan, op->in[0]) || !fn_is_f32(plan, op->out[0]) || in->rank < 1 ||
        in->cols != out->cols)
        return "float32 rows are wanted, as many values out as in";
    if (op->n_params != (op->attr[SCALE] != 0) + (op->attr[CENTER] != 0))
        return "a parameter for scale and one for center are wanted";
    for (int i = 0; i < op->n_params; i++)
        if (plan->params[op->params[i]].count != in->shape[in->rank - 1])
            return "a parameter has another size than the last axis";
    if (!(op->attr[EPSILON] > 0)) return "epsilon is not positive";
    op->scratch = (size_t)in->shape[in->rank - 1] + FN_PAD;
    op->flops = 12.0 * (double)in->cols;
    return NULL;
}

static const fn_attribute attributes[] = {
    {"epsilon", FN_ATTR_NUMBER, 1e-3}, {"scale", FN_ATTR_NUMBER, 1}, {"center", FN_ATTR_NUMBER, 1}};

const fn_op_impl FN_LEVELED(layer_norm) = {
    .attributes = attributes,
    .n_attributes = 3,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 2,
    .flags = FN_NEEDS_INPUT,
    .check = check,
    .forward = forward,
    .gradient = gradient,
    .backward = backward,
};
