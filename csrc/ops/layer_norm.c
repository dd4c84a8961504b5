/* layer_norm.c - y = (x - mean) / sqrt(var + epsilon) * gamma + beta, mean and variance over the
 * last axis (Ba, Kiros and Hinton, 2016): each pixel, step or row for itself.
 *
 * The pixels of all rows of a tile go through by fours. Where a pixel has one or two vectors of
 * values, those of four pixels are transposed, quarter by quarter: values that are summed then lie
 * in the same lane, four pixels side by side, and all stays in registers. Where it has more, sums
 * of four pixels are finished together. Squares of differences from the mean lose nothing where the
 * mean is large. Gradients compute both again, the values being in cache then.
 */
#include "kernels/image.h"

enum { EPSILON, SCALE, CENTER };

enum { FOUR = 4 };

typedef struct {
    int64_t n;                 /* values that are normalised together: a pixel's */
    int64_t rows, pixels;      /* and pixels of a row; rows of one pixel count as one row */
    int64_t ld, step;          /* from row to row, from pixel to pixel */
    int64_t whole;             /* values of a pixel in whole vectors */
    int64_t last;              /* where the vector with the others begins */
    vi others;                 /* and which of its lanes they are */
    int64_t reach;             /* pixels of a row that a vector does not reach beyond */
    const float *gamma, *beta; /* (n,), or NULL */
    float epsilon, share;
    float *spare; /* for three times four pixels */
} norm;

/* Four pixels of a tile. Where a vector would reach beyond the end of a row, they are copied to
 * spare memory and back. */
typedef struct {
    int64_t row, pixel; /* the next one */
    int count;          /* fewer than four at the end: the last one stands for the others */
    bool spare;
    int64_t at[FOUR];   /* where they begin */
    int64_t home[FOUR]; /* the same in the rows */
} four;

static norm norm_of(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->in[0]];
    const bool scale = op->attr[SCALE] != 0;
    const int64_t n = b->shape[b->rank - 1], rows = tile.r1 - tile.r0;
    norm k = {.n = n,
              .rows = rows,
              .pixels = b->cols / n,
              .step = n,
              .ld = b->ld,
              .whole = n / LANES * LANES,
              .last = n < LANES ? 0 : n - LANES,
              .reach = n < LANES ? (b->cols - LANES + n) / n : b->cols / n,
              .gamma = scale ? fn_weights(call, op, 0) : NULL,
              .beta = op->attr[CENTER] != 0 ? fn_weights(call, op, scale) : NULL,
              .epsilon = (float)op->attr[EPSILON],
              .share = 1 / (float)n,
              .spare = fn_scratch(call, tile)};
    if (b->cols == n && n >= LANES) k.rows = 1, k.pixels = k.reach = rows, k.step = k.ld;
    for (int i = 0; i < LANES; i++) k.others[i] = k.last + i >= k.whole && k.last + i < n ? -1 : 0;
    return k;
}

/* ---- four pixels ---- */

/* At the end of a row, of rows of few pixels. */
static __attribute__((noinline)) void gather_four(const norm *k, four *p) {
    p->spare = false;
    for (p->count = 0; p->count < FOUR && p->row < k->rows; p->count++) {
        p->home[p->count] = p->row * k->ld + p->pixel * k->step;
        p->spare |= p->pixel >= k->reach;
        if (++p->pixel == k->pixels) p->row++, p->pixel = 0;
    }
    for (int j = 0; j < FOUR && p->count; j++) {
        const int pixel = smaller(j, p->count - 1);
        p->at[j] = p->spare ? pixel * LANES : p->home[pixel];
    }
}

FN_INLINE bool next_four(const norm *k, four *p) {
    if (p->row < k->rows && p->pixel + FOUR <= k->reach) {
        const int64_t from = p->row * k->ld + p->pixel * k->step;
        for (int j = 0; j < FOUR; j++) p->at[j] = from + j * k->step;
        p->pixel += FOUR, p->count = FOUR, p->spare = false;
        if (p->pixel == k->pixels) p->row++, p->pixel = 0;
    } else
        gather_four(k, p);
    return p->count > 0;
}

FN_INLINE const float *fetched(const norm *k, const four *p, const float *rows, int which) {
    if (!p->spare) return rows;
    float *to = k->spare + which * FOUR * LANES;
    for (int j = 0; j < p->count; j++)
        for (int i = 0; i < LANES; i++) to[j * LANES + i] = i < k->n ? rows[p->home[j] + i] : 0;
    return to;
}

FN_INLINE float *target(const norm *k, const four *p, float *rows) {
    return p->spare ? k->spare + 2 * FOUR * LANES : rows;
}

FN_INLINE void put_back(const norm *k, const four *p, const float *from, float *rows) {
    for (int j = 0; p->spare && j < p->count; j++)
        for (int64_t i = 0; i < k->n; i++) rows[p->home[j] + i] = from[j * LANES + i];
}

FN_INLINE vf some(vi lanes, vf x) { return (vf)(lanes & (vi)x); }
FN_INLINE vf or_one(const float *gamma, int64_t i) { return gamma ? v_load(gamma + i) : v_set(1); }
FN_INLINE vf or_zero(const float *beta, int64_t i) { return beta ? v_load(beta + i) : v_set(0); }

FN_INLINE vq one_over_std(const norm *k, vq variance) { return 1 / v_sqrt4(variance + k->epsilon); }

/* ---- narrow: up to two vectors a pixel, transposed: x[v][c], lane 4 q + j is value 4 q + c of
 * vector v of pixel j ---- */

enum { NARROW = 2 };

typedef struct {
    int vectors;
    bool ragged;        /* not all lanes of the last vector count */
    int64_t at[NARROW]; /* of the vectors in a pixel; the last one may overlap the first */
    vf gamma[NARROW], beta[NARROW];
    vf turned_gamma[NARROW][FOUR];
    vi counts[FOUR]; /* lanes of the last vector that are values of their own, transposed */
} narrow;

FN_INLINE narrow narrow_of(const norm *k, int vectors, bool ragged) {
    narrow w = {.vectors = vectors, .ragged = ragged};
    vf counts[FOUR];
    for (int c = 0; c < FOUR; c++) counts[c] = (vf)(k->whole < k->n ? k->others : v_seti(-1));
    v_turn4(counts);
    for (int c = 0; c < FOUR; c++) w.counts[c] = (vi)counts[c];
    for (int v = 0; v < vectors; v++) {
        w.at[v] = v + 1 < vectors ? v * LANES : k->last;
        w.gamma[v] = or_one(k->gamma, w.at[v]), w.beta[v] = or_zero(k->beta, w.at[v]);
        for (int c = 0; c < FOUR; c++) w.turned_gamma[v][c] = w.gamma[v];
        v_turn4(w.turned_gamma[v]);
    }
    return w;
}

/* Values of four pixels, transposed; those that do not count are zero. */
FN_INLINE void load_narrow(const narrow *w, const float *x, const four *p, vf to[NARROW][FOUR]) {
    const int last = w->vectors - 1;
    for (int v = 0; v <= last; v++) {
        for (int j = 0; j < FOUR; j++) to[v][j] = v_load(x + p->at[j] + w->at[v]);
        v_turn4(to[v]);
    }
    for (int c = 0; c < FOUR && w->ragged; c++) to[last][c] = some(w->counts[c], to[last][c]);
}

/* Of the values of each pixel, and of products. */
FN_INLINE vq mean_of(const norm *k, const narrow *w, vf x[NARROW][FOUR]) {
    vf sum = (x[0][0] + x[0][1]) + (x[0][2] + x[0][3]);
    if (w->vectors > 1) sum += (x[1][0] + x[1][1]) + (x[1][2] + x[1][3]);
    return v_fold(sum) * k->share;
}

FN_INLINE vq mean_product(const norm *k, const narrow *w, vf x[NARROW][FOUR], vf y[NARROW][FOUR]) {
    vf a = {0}, b = {0};
    for (int v = 0; v < w->vectors; v++)
        for (int c = 0; c < FOUR; c += 2) {
            a = v_fma(x[v][c], y[v][c], a);
            b = v_fma(x[v][c + 1], y[v][c + 1], b);
        }
    return v_fold(a + b) * k->share;
}

/* x becomes z = (x - mean) / std; 1 / std of each pixel in all quarters. */
FN_INLINE vf standardise(const norm *k, const narrow *w, vf x[NARROW][FOUR]) {
    const vf mean = v_spread4(mean_of(k, w, x));
    for (int v = 0; v < w->vectors; v++)
        for (int c = 0; c < FOUR; c++) {
            x[v][c] -= mean;
            if (w->ragged && v + 1 == w->vectors) x[v][c] = some(w->counts[c], x[v][c]);
        }
    const vf inverse = v_spread4(one_over_std(k, mean_product(k, w, x, x)));
    for (int v = 0; v < w->vectors; v++)
        for (int c = 0; c < FOUR; c++) x[v][c] *= inverse;
    return inverse;
}

/* Store four pixels, given by rows again: the last vector first, so that the first one mends what
 * they share; pixel by pixel, so that the next one mends what reaches into it. */
FN_INLINE void store_narrow(const narrow *w, const four *p, vf y[NARROW][FOUR], float *to) {
    for (int j = 0; j < p->count; j++)
        for (int v = w->vectors; v-- > 0;) v_store(to + p->at[j] + w->at[v], y[v][j]);
}

FN_INLINE void forward_narrow(const norm *k, int vectors, bool ragged, const float *rows,
                              float *out) {
    const narrow w = narrow_of(k, vectors, ragged);
    for (four p = {0}; next_four(k, &p);) {
        vf z[NARROW][FOUR];
        float *y = target(k, &p, out);
        load_narrow(&w, fetched(k, &p, rows, 0), &p, z);
        standardise(k, &w, z);
        for (int v = 0; v < vectors; v++) {
            v_turn4(z[v]);
            for (int j = 0; j < FOUR; j++) z[v][j] = v_fma(z[v][j], w.gamma[v], w.beta[v]);
        }
        store_narrow(&w, &p, z, y);
        put_back(k, &p, y, out);
    }
}

/* Sums go back to where they came from, without lanes that do not count. */
FN_INLINE void leave(const norm *k, const narrow *w, const vf *sums, float *to) {
    const int64_t last = w->vectors - 1, from = last * LANES - w->at[last];
    if (last) v_store(to, sums[0]);
    for (int64_t i = from; i < smaller(LANES, (int)k->n); i++) to[w->at[last] + i] = sums[last][i];
}

FN_INLINE void gradient_narrow(const norm *k, int vectors, bool ragged, const float *rows,
                               const float *slopes, float *dgamma, float *dbeta) {
    const narrow w = narrow_of(k, vectors, ragged);
    vf gamma[NARROW], beta[NARROW];
    for (int v = 0; v < vectors; v++)
        gamma[v] = or_zero(dgamma, w.at[v]), beta[v] = or_zero(dbeta, w.at[v]);
    for (four p = {0}; next_four(k, &p);) {
        vf z[NARROW][FOUR];
        const float *dy = fetched(k, &p, slopes, 1);
        load_narrow(&w, fetched(k, &p, rows, 0), &p, z);
        standardise(k, &w, z);
        for (int v = 0; v < vectors; v++) {
            v_turn4(z[v]);
            for (int j = 0; j < p.count; j++) {
                const vf slope = v_load(dy + p.at[j] + w.at[v]);
                gamma[v] += z[v][j] * slope;
                beta[v] += slope;
            }
        }
    }
    if (dgamma) leave(k, &w, gamma, dgamma);
    if (dbeta) leave(k, &w, beta, dbeta);
}

FN_INLINE void backward_narrow(const norm *k, int vectors, bool ragged, const float *rows,
                               const float *slopes, float *out) {
    const narrow w = narrow_of(k, vectors, ragged);
    for (four p = {0}; next_four(k, &p);) {
        vf z[NARROW][FOUR], g[NARROW][FOUR];
        float *dx = target(k, &p, out);
        load_narrow(&w, fetched(k, &p, rows, 0), &p, z);
        load_narrow(&w, fetched(k, &p, slopes, 1), &p, g);
        const vf inverse = standardise(k, &w, z);
        for (int v = 0; v < vectors; v++)
            for (int c = 0; c < FOUR; c++) g[v][c] *= w.turned_gamma[v][c];
        const vf of_g = v_spread4(mean_of(k, &w, g)),
                 of_product = v_spread4(mean_product(k, &w, g, z));
        for (int v = 0; v < vectors; v++) {
            for (int c = 0; c < FOUR; c++)
                g[v][c] = (g[v][c] - of_g - z[v][c] * of_product) * inverse;
            v_turn4(g[v]);
        }
        store_narrow(&w, &p, g, dx);
        put_back(k, &p, dx, out);
    }
}

/* ---- wide: sums of vectors, those of four pixels finished together ---- */

FN_INLINE void spread(vq of, vf *to) {
    for (int j = 0; j < FOUR; j++) to[j] = v_set(of[j]);
}

FN_INLINE void add_values(const float *x, const int64_t *at, int64_t i, vf *sum) {
    for (int j = 0; j < FOUR; j++) sum[j] += v_load(x + at[j] + i);
}

FN_INLINE void add_squares(const float *x, const int64_t *at, int64_t i, const vf *mean, vf *sum) {
    for (int j = 0; j < FOUR; j++) {
        const vf d = v_load(x + at[j] + i) - mean[j];
        sum[j] = v_fma(d, d, sum[j]);
    }
}

/* Means and 1 / std of four pixels, each in all lanes: whole vectors in two sums, then the rest. */
FN_INLINE void statistics(const norm *k, const float *x, const int64_t *at, vf *mean, vf *inverse) {
    vf a[FOUR] = {0}, b[FOUR] = {0};
    int64_t i = 0;
    for (; i + PANEL <= k->whole; i += PANEL)
        add_values(x, at, i, a), add_values(x, at, i + LANES, b);
    if (i < k->whole) add_values(x, at, i, a);
    for (int j = 0; j < FOUR && k->whole < k->n; j++)
        b[j] += some(k->others, v_load(x + at[j] + k->last));
    spread(v_sum4(a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]) * k->share, mean);
    for (int j = 0; j < FOUR; j++) a[j] = b[j] = v_set(0);
    for (i = 0; i + PANEL <= k->whole; i += PANEL)
        add_squares(x, at, i, mean, a), add_squares(x, at, i + LANES, mean, b);
    if (i < k->whole) add_squares(x, at, i, mean, a);
    for (int j = 0; j < FOUR && k->whole < k->n; j++) {
        const vf d = some(k->others, v_load(x + at[j] + k->last) - mean[j]);
        b[j] = v_fma(d, d, b[j]);
    }
    spread(one_over_std(k, v_sum4(a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]) * k->share),
           inverse);
}

/* Where the vectors of a pixel lie: the last one overlaps the one before it. */
FN_INLINE int64_t vector_at(const norm *k, int64_t i) { return i < k->last ? i : k->last; }

static void forward_wide(const norm *k, const float *x, float *y) {
    for (four p = {0}; next_four(k, &p);) {
        vf mean[FOUR], inverse[FOUR];
        statistics(k, x, p.at, mean, inverse);
        for (int64_t v = 0; v < k->n; v += LANES) {
            const int64_t i = vector_at(k, v);
            const vf gamma = or_one(k->gamma, i), beta = or_zero(k->beta, i);
            for (int j = 0; j < FOUR; j++)
                v_store(y + p.at[j] + i,
                        v_fma((v_load(x + p.at[j] + i) - mean[j]) * inverse[j], gamma, beta));
        }
    }
}

/* dgamma += z * dy, dbeta += dy */
FN_INLINE void add_gradients(const four *p, const float *x, const float *dy, const vf *mean,
                             const vf *inverse, int64_t i, vi lanes, float *dgamma, float *dbeta) {
    vf gamma = or_zero(dgamma, i), beta = or_zero(dbeta, i);
    for (int j = 0; j < p->count; j++) {
        const vf slope = some(lanes, v_load(dy + p->at[j] + i));
        gamma += (v_load(x + p->at[j] + i) - mean[j]) * inverse[j] * slope;
        beta += slope;
    }
    if (dgamma) v_store(dgamma + i, gamma);
    if (dbeta) v_store(dbeta + i, beta);
}

static void gradient_wide(const norm *k, const float *x, const float *dy, float *dgamma,
                          float *dbeta) {
    for (four p = {0}; next_four(k, &p);) {
        vf mean[FOUR], inverse[FOUR];
        statistics(k, x, p.at, mean, inverse);
        for (int64_t i = 0; i < k->whole; i += LANES)
            add_gradients(&p, x, dy, mean, inverse, i, v_seti(-1), dgamma, dbeta);
        if (k->whole < k->n)
            add_gradients(&p, x, dy, mean, inverse, k->last, k->others, dgamma, dbeta);
    }
}

typedef struct {
    vf g[FOUR], product[FOUR];
} sums_back;

FN_INLINE void add_back(const norm *k, const float *x, const float *dy, const int64_t *at,
                        int64_t i, const vf *mean, vi lanes, sums_back *sum) {
    const vf gamma = or_one(k->gamma, i);
    for (int j = 0; j < FOUR; j++) {
        const vf g = some(lanes, v_load(dy + at[j] + i) * gamma);
        sum->g[j] += g;
        sum->product[j] = v_fma(g, v_load(x + at[j] + i) - mean[j], sum->product[j]);
    }
}

static void backward_wide(const norm *k, const float *x, const float *dy, float *dx) {
    for (four p = {0}; next_four(k, &p);) {
        vf mean[FOUR], inverse[FOUR], of_g[FOUR], pull[FOUR];
        sums_back sum = {0};
        statistics(k, x, p.at, mean, inverse);
        for (int64_t i = 0; i < k->whole; i += LANES)
            add_back(k, x, dy, p.at, i, mean, v_seti(-1), &sum);
        if (k->whole < k->n) add_back(k, x, dy, p.at, k->last, mean, k->others, &sum);
        spread(v_sum4(sum.g[0], sum.g[1], sum.g[2], sum.g[3]) * k->share, of_g);
        spread(v_sum4(sum.product[0], sum.product[1], sum.product[2], sum.product[3]) * k->share,
               pull);
        for (int j = 0; j < FOUR; j++) pull[j] *= inverse[j] * inverse[j];
        for (int64_t v = 0; v < k->n; v += LANES) {
            const int64_t i = vector_at(k, v);
            const vf gamma = or_one(k->gamma, i);
            for (int j = 0; j < FOUR; j++) {
                const vf d = v_load(x + p.at[j] + i) - mean[j],
                         g = v_load(dy + p.at[j] + i) * gamma - of_g[j];
                v_store(dx + p.at[j] + i, (g - d * pull[j]) * inverse[j]);
            }
        }
    }
}

/* ---- passes ---- */

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    const float *x = fn_row(call, tile, op->in[0], tile.r0);
    float *y = fn_row(call, tile, op->out[0], tile.r0);
    if (k.n == LANES)
        forward_narrow(&k, 1, false, x, y);
    else if (k.n < LANES)
        forward_narrow(&k, 1, true, x, y);
    else if (k.n == 2 * LANES)
        forward_narrow(&k, 2, false, x, y);
    else if (k.n < 2 * LANES)
        forward_narrow(&k, 2, true, x, y);
    else
        forward_wide(&k, x, y);
}

/* dgamma += dy * (x - mean) / std, dbeta += dy */
static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    const float *x = fn_row(call, tile, op->in[0], tile.r0),
                *dy = fn_gradient_row(call, tile, op->out[0], tile.r0);
    float *lane = fn_lane(call, op, tile.lane);
    float *dgamma = k.gamma ? lane : NULL;
    float *dbeta = k.beta ? lane + fn_lane_offset(call->plan, op, k.gamma != NULL) : NULL;
    if (tile.first) memset(lane, 0, op->lane * sizeof(float));
    if (k.n == LANES)
        gradient_narrow(&k, 1, false, x, dy, dgamma, dbeta);
    else if (k.n < LANES)
        gradient_narrow(&k, 1, true, x, dy, dgamma, dbeta);
    else if (k.n == 2 * LANES)
        gradient_narrow(&k, 2, false, x, dy, dgamma, dbeta);
    else if (k.n < 2 * LANES)
        gradient_narrow(&k, 2, true, x, dy, dgamma, dbeta);
    else
        gradient_wide(&k, x, dy, dgamma, dbeta);
}

/* dx = (g - mean(g) - z * mean(g * z)) / std with g = dy * gamma, z = (x - mean) / std */
static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const norm k = norm_of(call, op, tile);
    const float *x = fn_row(call, tile, op->in[0], tile.r0),
                *dy = fn_gradient_row(call, tile, op->out[0], tile.r0);
    float *dx = fn_gradient_row(call, tile, op->in[0], tile.r0);
    if (k.n == LANES)
        backward_narrow(&k, 1, false, x, dy, dx);
    else if (k.n < LANES)
        backward_narrow(&k, 1, true, x, dy, dx);
    else if (k.n == 2 * LANES)
        backward_narrow(&k, 2, false, x, dy, dx);
    else if (k.n < 2 * LANES)
        backward_narrow(&k, 2, true, x, dy, dx);
    else
        backward_wide(&k, x, dy, dx);
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
    op->scratch = (size_t)3 * FOUR * LANES;
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
