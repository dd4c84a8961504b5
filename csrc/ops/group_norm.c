/* group_norm.c - y = (x - mean) / sqrt(var + epsilon) * gamma + beta, mean and variance over all
 * pixels of a group of channels, for each image on its own (Wu and He, ECCV 2018); as many groups
 * as channels make it instance normalisation.
 *
 * Channels repeat every c values. All loops run over a *stretch* of whole pixels, 64 values or
 * more, with what belongs to a channel written out once for each place in it: so they are plain
 * loops over contiguous values, however few channels there are. Sums of a channel are kept for each
 * place of a stretch apart, and added in float64 at the end.
 */
#include "kernels/image.h"

enum { GROUPS, EPSILON, SCALE, CENTER };

enum { MEAN, INVERSE, SUM, PRODUCT, A, B, C, N_STRETCHES }; /* in scratch */

typedef struct {
    int channels, groups, stretch;
    int64_t n; /* values of an image */
    float epsilon;
    const float *gamma, *beta; /* (channels,), or NULL */
    float *at[N_STRETCHES];
} norm;

/* Values of whole pixels: enough for a few vectors. */
static int stretch_of(int channels) { return (63 + channels) / channels * channels; }

static norm norm_of(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->in[0]];
    const bool scale = op->attr[SCALE] != 0;
    norm k = {.channels = image_of(b).c,
              .groups = (int)op->attr[GROUPS],
              .n = b->cols,
              .epsilon = (float)op->attr[EPSILON],
              .gamma = scale ? fn_weights(call, op, 0) : NULL,
              .beta = op->attr[CENTER] != 0 ? fn_weights(call, op, scale) : NULL};
    k.stretch = stretch_of(k.channels);
    for (int i = 0; i < N_STRETCHES; i++)
        k.at[i] = fn_scratch(call, tile) + (size_t)i * (size_t)k.stretch;
    return k;
}

static int part(const norm *k, int64_t from) {
    return k->n - from < k->stretch ? (int)(k->n - from) : k->stretch;
}

/* The sum over all places of channel `channel`. */
static double channel_sum(const norm *k, const float *sums, int channel) {
    double sum = 0;
    for (int i = channel; i < k->stretch; i += k->channels) sum += sums[i];
    return sum;
}

/* Every channel of group g gets `value`, at all its places. */
static void spread(const norm *k, float *to, int g, float value) {
    const int size = k->channels / k->groups;
    for (int p = g * size; p < k->stretch; p += k->channels)
        for (int i = p; i < p + size; i++) to[i] = value;
}

static double group_mean(const norm *k, const float *sums, int g) {
    const int size = k->channels / k->groups;
    double sum = 0;
    for (int i = g * size; i < (g + 1) * size; i++) sum += channel_sum(k, sums, i);
    return sum / ((double)k->n / k->groups);
}

/* Mean and 1 / sqrt(var + epsilon) of each group, written out for a stretch. */
static void statistics(const norm *k, const float *x) {
    float *restrict sum = k->at[SUM], *restrict mean = k->at[MEAN];
    const size_t bytes = (size_t)k->stretch * sizeof(float);
    memset(sum, 0, bytes);
    for (int64_t s = 0; s < k->n; s += k->stretch)
        for (int i = 0, m = part(k, s); i < m; i++) sum[i] += x[s + i];
    for (int g = 0; g < k->groups; g++) spread(k, mean, g, (float)group_mean(k, sum, g));
    memset(sum, 0, bytes);
    for (int64_t s = 0; s < k->n; s += k->stretch)
        for (int i = 0, m = part(k, s); i < m; i++)
            sum[i] += (x[s + i] - mean[i]) * (x[s + i] - mean[i]);
    for (int g = 0; g < k->groups; g++)
        spread(k, k->at[INVERSE], g, 1 / sqrtf((float)group_mean(k, sum, g) + k->epsilon));
}

/* The sums of dy and of dy * (x - mean), for each place of a stretch. */
static void sums_back(const norm *k, const float *x, const float *dy) {
    float *restrict sum = k->at[SUM], *restrict product = k->at[PRODUCT];
    const float *mean = k->at[MEAN];
    memset(sum, 0, (size_t)k->stretch * sizeof(float));
    memset(product, 0, (size_t)k->stretch * sizeof(float));
    for (int64_t s = 0; s < k->n; s += k->stretch)
        for (int i = 0, m = part(k, s); i < m; i++) {
            sum[i] += dy[s + i];
            product[i] += dy[s + i] * (x[s + i] - mean[i]);
        }
}

/* ---- passes ---- */

/* y = (x - mean) * a + b */
static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    float *restrict a = k.at[A], *restrict b = k.at[B];
    const float *mean = k.at[MEAN], *inverse = k.at[INVERSE];
    for (int i = 0; i < k.stretch; i++) b[i] = k.beta ? k.beta[i % k.channels] : 0;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *restrict y = fn_row(call, tile, op->out[0], r);
        statistics(&k, x);
        for (int i = 0; i < k.stretch; i++)
            a[i] = k.gamma ? inverse[i] * k.gamma[i % k.channels] : inverse[i];
        for (int64_t s = 0; s < k.n; s += k.stretch)
            for (int i = 0, m = part(&k, s); i < m; i++)
                y[s + i] = (x[s + i] - mean[i]) * a[i] + b[i];
    }
}

/* dgamma += the sum of dy * (x - mean) / std, dbeta += the sum of dy, over the pixels */
static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    float *lane = fn_lane(call, op, tile.lane);
    float *dgamma = k.gamma ? lane : NULL;
    float *dbeta = k.beta ? lane + fn_lane_offset(call->plan, op, k.gamma != NULL) : NULL;
    if (tile.first) memset(lane, 0, op->lane * sizeof(float));
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        statistics(&k, x);
        sums_back(&k, x, fn_gradient_row(call, tile, op->out[0], r));
        for (int i = 0; i < k.channels; i++) {
            if (dgamma) dgamma[i] += (float)(channel_sum(&k, k.at[PRODUCT], i) * k.at[INVERSE][i]);
            if (dbeta) dbeta[i] += (float)channel_sum(&k, k.at[SUM], i);
        }
    }
}

/* dx = (g - mean(g) - z * mean(g * z)) / std with g = dy * gamma, z = (x - mean) / std, which is
 * dy * a + (x - mean) * b + c with factors of the channel. */
static void factors_back(const norm *k) {
    const int size = k->channels / k->groups;
    const double n = (double)k->n / k->groups;
    for (int g = 0; g < k->groups; g++) {
        double of_g = 0, of_product = 0;
        for (int i = g * size; i < (g + 1) * size; i++) {
            const double gamma = k->gamma ? k->gamma[i] : 1;
            of_g += gamma * channel_sum(k, k->at[SUM], i);
            of_product += gamma * channel_sum(k, k->at[PRODUCT], i);
        }
        const double inverse = k->at[INVERSE][g * size];
        spread(k, k->at[B], g, (float)(-of_product / n * inverse * inverse * inverse));
        spread(k, k->at[C], g, (float)(-of_g / n * inverse));
    }
    for (int i = 0; i < k->stretch; i++)
        k->at[A][i] = k->gamma ? k->at[INVERSE][i] * k->gamma[i % k->channels] : k->at[INVERSE][i];
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    const float *mean = k.at[MEAN], *a = k.at[A], *b = k.at[B], *c = k.at[C];
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *restrict dx = fn_gradient_row(call, tile, op->in[0], r);
        statistics(&k, x);
        sums_back(&k, x, dy);
        factors_back(&k);
        for (int64_t s = 0; s < k.n; s += k.stretch)
            for (int i = 0, m = part(&k, s); i < m; i++)
                dx[s + i] = dy[s + i] * a[i] + (x[s + i] - mean[i]) * b[i] + c[i];
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    if (!fn_is_f32(plan, op->in[0]) || !fn_is_f32(plan, op->out[0]) || in->rank < 1 ||
        in->cols != out->cols)
        return "float32 rows are wanted, as many values out as in";
    const int c = image_of(in).c;
    if (!(op->attr[GROUPS] >= 1 && op->attr[GROUPS] <= c) || c % (int)op->attr[GROUPS])
        return "the channels cannot be cut into so many groups";
    if (op->n_params != (op->attr[SCALE] != 0) + (op->attr[CENTER] != 0))
        return "a parameter for scale and one for center are wanted";
    for (int i = 0; i < op->n_params; i++)
        if (plan->params[op->params[i]].count != c)
            return "a parameter has another size than the last axis";
    if (!(op->attr[EPSILON] > 0)) return "epsilon is not positive";
    op->scratch = (size_t)N_STRETCHES * (size_t)stretch_of(c) + FN_PAD;
    op->flops = 12.0 * (double)in->cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"groups", FN_ATTR_NUMBER, 1},
                                          {"epsilon", FN_ATTR_NUMBER, 1e-3},
                                          {"scale", FN_ATTR_NUMBER, 1},
                                          {"center", FN_ATTR_NUMBER, 1}};

const fn_op_impl FN_LEVELED(group_norm) = {
    .attributes = attributes,
    .n_attributes = 4,
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
