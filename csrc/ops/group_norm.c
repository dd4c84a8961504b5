/* group_norm.c - y = (x - mean) / sqrt(var + epsilon) * gamma + beta, mean and variance over all
 * pixels of a group of channels, for each image on its own (Wu and He, ECCV 2018); as many groups
 * as channels make it instance normalisation.
 *
 * Channels repeat every c values. All loops run over a *stretch* of whole pixels, 64 values or
 * more and whole vectors if that is not too long, with what belongs to a channel written out once
 * for each place in it: so they are plain loops over contiguous values, however few channels there
 * are. Sums are kept in registers, for each place of a stretch apart, and added up in float64.
 */
#include "kernels/image.h"

enum { GROUPS, EPSILON, SCALE, CENTER };

enum { MEAN, INVERSE, SUM, PRODUCT, GAMMA, A, B, C, N_STRETCHES }; /* in scratch */
enum { STRETCH = 64, LONGEST = 256, TOGETHER = 4 };                /* vectors */

typedef struct {
    int channels, groups, stretch;
    int64_t n; /* values of an image */
    float epsilon;
    const float *gamma, *beta; /* (channels,), or NULL */
    double *of[2];             /* sums of each channel */
    float *at[N_STRETCHES];
} norm;

static int stretch_of(int channels) {
    int whole = channels;
    while (whole % LANES) whole += channels;
    if (whole > LONGEST) whole = channels;
    return (STRETCH - 1 + whole) / whole * whole;
}

static size_t scratch_of(int channels) {
    return (size_t)4 * (size_t)channels + (size_t)N_STRETCHES * (size_t)stretch_of(channels) +
           FN_PAD;
}

/* What the first pixel of a stretch has, in all of them. */
static void repeat(const norm *k, float *to) {
    for (int done = k->channels; done < k->stretch; done *= 2)
        memcpy(to + done, to, (size_t)smaller(done, k->stretch - done) * sizeof *to);
}

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
    k.of[0] = (double *)fn_scratch(call, tile);
    k.of[1] = k.of[0] + k.channels;
    for (int i = 0; i < N_STRETCHES; i++)
        k.at[i] = (float *)(k.of[1] + k.channels) + (size_t)i * (size_t)k.stretch;
    for (int i = 0; i < k.channels; i++) k.at[GAMMA][i] = k.gamma ? k.gamma[i] : 1;
    repeat(&k, k.at[GAMMA]);
    return k;
}

static int part(const norm *k, int64_t from) {
    return k->n - from < k->stretch ? (int)(k->n - from) : k->stretch;
}

/* ---- sums over an image, for each place of a stretch: of x - mean squared; of x; of x * (z -
 * mean) ---- */

typedef enum { SQUARES, VALUES, PRODUCTS } what;

FN_INLINE vf add_vector(what sum, vf to, const float *x, const float *z, const float *mean) {
    if (sum == VALUES) return to + v_load(x);
    const vf d = v_load(z) - v_load(mean);
    return v_fma(sum == SQUARES ? d : v_load(x), d, to);
}

/* Vectors [v, v + count) of all whole stretches. */
FN_INLINE void add_vectors(const norm *k, what sum, int v, int count, int64_t whole, const float *x,
                           const float *z, float *to) {
    vf a[TOGETHER];
    for (int j = 0; j < count; j++) a[j] = v_set(0);
    for (int64_t s = v; s < whole; s += k->stretch)
        for (int j = 0; j < count; j++)
            a[j] = add_vector(sum, a[j], x + s + j * LANES, z + s + j * LANES,
                              k->at[MEAN] + v + j * LANES);
    for (int j = 0; j < count; j++) v_store(to + v + j * LANES, a[j]);
}

FN_INLINE void add_places(const norm *k, what sum, const float *x, const float *z, float *to) {
    const int64_t whole = k->n / k->stretch * k->stretch;
    const float *mean = k->at[MEAN];
    int v = 0;
    for (; v + TOGETHER * LANES <= k->stretch; v += TOGETHER * LANES)
        add_vectors(k, sum, v, TOGETHER, whole, x, z, to);
    for (; v + LANES <= k->stretch; v += LANES) add_vectors(k, sum, v, 1, whole, x, z, to);
    for (int i = v; i < k->stretch; i++) to[i] = 0;
    for (int64_t s = v < k->stretch ? 0 : whole; s < k->n; s += k->stretch)
        for (int i = s < whole ? v : 0, end = part(k, s); i < end; i++) {
            const float d = sum == VALUES ? 1 : z[s + i] - mean[i];
            to[i] += sum == SQUARES ? d * d : x[s + i] * d;
        }
}

/* Sums of all places of a channel. */
static void add_channels(const norm *k, const float *sums, double *of) {
    for (int i = 0; i < k->channels; i++) of[i] = sums[i];
    for (int p = k->channels; p < k->stretch; p += k->channels)
        for (int i = 0; i < k->channels; i++) of[i] += sums[p + i];
}

static double group_mean(const norm *k, const double *of, int group) {
    const int size = k->channels / k->groups;
    double sum = 0;
    for (int i = group * size; i < (group + 1) * size; i++) sum += of[i];
    return sum / ((double)k->n / k->groups);
}

/* Every channel of group g gets `value`. */
static void spread(const norm *k, float *to, int g, float value) {
    const int size = k->channels / k->groups;
    for (int i = g * size; i < (g + 1) * size; i++) to[i] = value;
}

/* Mean and 1 / sqrt(var + epsilon) of each group, written out for a stretch. */
static void statistics(const norm *k, const float *x) {
    float *mean = k->at[MEAN], *inverse = k->at[INVERSE];
    add_places(k, VALUES, x, x, k->at[SUM]);
    add_channels(k, k->at[SUM], k->of[0]);
    for (int g = 0; g < k->groups; g++) spread(k, mean, g, (float)group_mean(k, k->of[0], g));
    repeat(k, mean);
    add_places(k, SQUARES, x, x, k->at[SUM]);
    add_channels(k, k->at[SUM], k->of[0]);
    for (int g = 0; g < k->groups; g++)
        spread(k, inverse, g, 1 / sqrtf((float)group_mean(k, k->of[0], g) + k->epsilon));
    repeat(k, inverse);
}

/* The sums of dy and of dy * (x - mean) of each channel. */
static void sums_back(const norm *k, const float *x, const float *dy) {
    add_places(k, VALUES, dy, x, k->at[SUM]);
    add_channels(k, k->at[SUM], k->of[0]);
    add_places(k, PRODUCTS, dy, x, k->at[PRODUCT]);
    add_channels(k, k->at[PRODUCT], k->of[1]);
}

/* ---- passes ---- */

/* y = (x - mean) * a + b */
static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    float *restrict a = k.at[A], *restrict b = k.at[B];
    const float *mean = k.at[MEAN], *inverse = k.at[INVERSE], *gamma = k.at[GAMMA];
    for (int i = 0; i < k.channels; i++) b[i] = k.beta ? k.beta[i] : 0;
    repeat(&k, b);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *restrict y = fn_row(call, tile, op->out[0], r);
        statistics(&k, x);
        for (int i = 0; i < k.stretch; i++) a[i] = inverse[i] * gamma[i];
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
            if (dgamma) dgamma[i] += (float)(k.of[1][i] * k.at[INVERSE][i]);
            if (dbeta) dbeta[i] += (float)k.of[0][i];
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
            of_g += k->at[GAMMA][i] * k->of[0][i];
            of_product += k->at[GAMMA][i] * k->of[1][i];
        }
        const double inverse = k->at[INVERSE][g * size];
        spread(k, k->at[B], g, (float)(-of_product / n * inverse * inverse * inverse));
        spread(k, k->at[C], g, (float)(-of_g / n * inverse));
    }
    repeat(k, k->at[B]);
    repeat(k, k->at[C]);
    for (int i = 0; i < k->stretch; i++) k->at[A][i] = k->at[INVERSE][i] * k->at[GAMMA][i];
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
    op->scratch = scratch_of(c);
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
