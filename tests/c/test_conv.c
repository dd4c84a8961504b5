/* test_conv.c - convolutions of random shapes on arrays of exactly the size that they may touch:
 * the sanitizer sees every read or write beyond. The way back is checked against forward by
 * <conv(x), dy> = <x, back(dy)>, and the gradient of the weights by <w, gradient> being the same.
 *
 * The sums that leave zeros of dy out have to be those of the others, bit for bit.
 *
 *   tests/c/run.sh builds it.   test_conv [level]: of this level alone.
 */
#define FN_LANES 4
#define FN_LEVEL base
#include <stdio.h>
#include <stdlib.h>

#include "kernels/conv.h"

enum { SHAPES = 400 };

#define DECLARE(level)                                                                             \
    size_t fn_conv_scratch_##level(const conv_shape *, bool);                                      \
    void fn_conv_forward_##level(const conv_shape *, const float *, const float *, const float *,  \
                                 float *, float *);                                                \
    size_t fn_conv_turned_##level(const conv_shape *);                                             \
    void fn_conv_turn_##level(const conv_shape *, const float *, float *);                         \
    void fn_conv_backward_##level(const conv_shape *, const float *, const float *, const float *, \
                                  float *, float *);                                               \
    void fn_conv_weights_##level(const conv_shape *, bool, const float *, const float *, float *,  \
                                 float *);                                                         \
    size_t fn_conv_spread_##level(const conv_shape *);                                             \
    size_t fn_conv_sparse_scratch_##level(const conv_shape *);                                     \
    bool fn_conv_mostly_zero_##level(const conv_shape *, const float *);                           \
    void fn_conv_spread_weights_##level(const conv_shape *, const float *, float *);               \
    void fn_conv_gather_weights_##level(const conv_shape *, const float *, float *);               \
    void fn_conv_backward_sparse_##level(const conv_shape *, const float *, const float *,         \
                                         float *, float *);                                        \
    void fn_conv_weights_sparse_##level(const conv_shape *, const float *, const float *, float *, \
                                        float *);
#define LEVEL(level, lanes)           \
    {#level,                          \
     lanes,                           \
     fn_conv_scratch_##level,         \
     fn_conv_forward_##level,         \
     fn_conv_turned_##level,          \
     fn_conv_turn_##level,            \
     fn_conv_backward_##level,        \
     fn_conv_weights_##level,         \
     fn_conv_spread_##level,          \
     fn_conv_sparse_scratch_##level,  \
     fn_conv_mostly_zero_##level,     \
     fn_conv_spread_weights_##level,  \
     fn_conv_gather_weights_##level,  \
     fn_conv_backward_sparse_##level, \
     fn_conv_weights_sparse_##level}

#if defined(__x86_64__)
DECLARE(v3)
DECLARE(v4)
#endif

typedef struct {
    const char *name;
    int lanes;
    size_t (*scratch)(const conv_shape *, bool);
    void (*forward)(const conv_shape *, const float *, const float *, const float *, float *,
                    float *);
    size_t (*turned)(const conv_shape *);
    void (*turn)(const conv_shape *, const float *, float *);
    void (*backward)(const conv_shape *, const float *, const float *, const float *, float *,
                     float *);
    void (*weights)(const conv_shape *, bool, const float *, const float *, float *, float *);
    size_t (*spread)(const conv_shape *), (*sparse_scratch)(const conv_shape *);
    bool (*mostly_zero)(const conv_shape *, const float *);
    void (*spread_weights)(const conv_shape *, const float *, float *);
    void (*gather_weights)(const conv_shape *, const float *, float *);
    void (*backward_sparse)(const conv_shape *, const float *, const float *, float *, float *);
    void (*weights_sparse)(const conv_shape *, const float *, const float *, float *, float *);
} level;

static const level levels[] = {
    LEVEL(base, 4),
#if defined(__x86_64__)
    LEVEL(v3, 8),
    LEVEL(v4, 16),
#endif
};

static int below(int n) { return rand() % n; }

static float *random_array(size_t n) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    if (!x) exit(2);
    for (size_t i = 0; i < n; i++) x[i] = (float)(below(2001) - 1000) * 1e-3f;
    return x;
}

/* A shape whose result has at least one pixel, or oh = 0. */
static conv_shape random_shape(void) {
    const int groups = below(4) ? 1 : 1 + below(3);
    conv_shape s = {.h = 1 + below(10),
                    .w = 1 + below(30),
                    .c = groups * (1 + below(9)),
                    .oc = groups * (1 + below(35)),
                    .kh = 1 + below(5),
                    .kw = 1 + below(5),
                    .sh = 1 + below(3),
                    .sw = 1 + below(3),
                    .dh = 1 + below(2),
                    .dw = 1 + below(2),
                    .top = below(5),
                    .left = below(5),
                    .groups = groups};
    if (!below(4)) { /* the tiles of one channel */
        s.c = s.groups = s.sh = s.sw = s.dh = s.dw = 1;
        s.kh = s.kw = 3 + 2 * below(2);
    }
    const int down = s.h + s.top + below(5) - (s.kh - 1) * s.dh - 1;
    const int across = s.w + s.left + below(5) - (s.kw - 1) * s.dw - 1;
    if (down < 0 || across < 0) return s;
    s.oh = down / s.sh + 1;
    s.ow = across / s.sw + 1;
    return s;
}

static double dot(size_t n, const float *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static double size(size_t n, const float *a, const float *b) {
    double sum = 1;
    for (size_t i = 0; i < n; i++) sum += fabs((double)a[i] * b[i]);
    return sum;
}

/* 0, or 1 if a product differs. The padding of panels is zero, as in params. */
static int try_shape(const level *l, const conv_shape *s) {
    const size_t panel = 2 * (size_t)l->lanes, x_size = (size_t)s->h * s->w * s->c;
    const size_t y_size = (size_t)s->oh * s->ow * s->oc,
                 columns = (s->oc + panel - 1) / panel * panel;
    const size_t w_size = (size_t)s->kh * s->kw * (s->c / s->groups) * columns;
    float *x = random_array(x_size), *dy = random_array(y_size), *y = random_array(y_size);
    float *dx = random_array(x_size), *g = random_array(w_size), *w = random_array(w_size);
    float *scratch = random_array(l->scratch(s, false)), *more = random_array(l->scratch(s, true));
    float *turned = random_array(l->turned(s));
    memset(g, 0, w_size * sizeof *g); /* groups leave lanes without a channel alone */
    l->weights(s, true, x, dy, g, more);
    for (size_t i = 0; i < w_size; i++) w[i] = g[i] == 0 ? 0 : w[i];
    l->forward(s, x, w, NULL, y, scratch);
    l->turn(s, w, turned);
    l->backward(s, dy, turned, NULL, dx, more);
    const double want = dot(y_size, y, dy), near = 1e-4 * size(y_size, y, dy);
    const int wrong =
        fabs(dot(x_size, dx, x) - want) > near || fabs(dot(w_size, g, w) - want) > near;
    if (wrong)
        printf("%s: %dx%dx%d -> %dx%dx%d, taps %dx%d, strides %d %d, dilations %d %d, from %d %d, "
               "groups %d: %g by the result, %g by the source, %g by the weights\n",
               l->name, s->h, s->w, s->c, s->oh, s->ow, s->oc, s->kh, s->kw, s->sh, s->sw, s->dh,
               s->dw, s->top, s->left, s->groups, want, dot(x_size, dx, x), dot(w_size, g, w));
    float *all[] = {x, dy, y, dx, g, w, scratch, more, turned};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return wrong;
}

/* Shapes that conv_sparse.c takes: chunks of channels, from few to several blocks of rows. */
static conv_shape sparse_shape(void) {
    const int channels[] = {3, 4, 8, 9, 16, 20, 40};
    conv_shape s = {.h = 1 + below(20),
                    .w = 1 + below(40),
                    .c = channels[below(7)],
                    .oc = 8 * (1 + below(below(8) ? 6 : 60)),
                    .kh = 1 + below(5),
                    .kw = 1 + below(5),
                    .sh = 1 + below(2),
                    .sw = 1 + below(2),
                    .dh = 1 + below(2),
                    .dw = 1,
                    .top = below(4),
                    .left = below(4),
                    .groups = 1};
    const int down = s.h + s.top + below(4) - (s.kh - 1) * s.dh - 1;
    const int across = s.w + s.left + below(4) - s.kw;
    if (down < 0 || across < 0) return s;
    s.oh = down / s.sh + 1;
    s.ow = across / s.sw + 1;
    return s;
}

/* 0, or 1 if leaving zeros out makes a difference. Sums go on from those of another picture. */
static int try_sparse(const level *l, const conv_shape *s) {
    const size_t panel = 2 * (size_t)l->lanes, x_size = (size_t)s->h * s->w * s->c;
    const size_t y_size = (size_t)s->oh * s->ow * s->oc;
    const size_t last = (s->oc - 1) / panel * panel,
                 columns = last + (s->oc - last <= panel / 2 ? panel / 2 : panel);
    const size_t w_size = (size_t)s->kh * s->kw * s->c * columns, spread_size = l->spread(s);
    float *x = random_array(x_size), *dy = random_array(y_size), *w = random_array(w_size);
    float *want = random_array(x_size), *dx = random_array(x_size), *g = random_array(w_size);
    float *more = random_array(l->scratch(s, true)), *turned = random_array(l->turned(s));
    float *scratch = random_array(l->sparse_scratch(s)), *spread = random_array(spread_size);
    float *sums = random_array(w_size), *back = random_array(w_size);
    int wrong = !l->mostly_zero(s, dy) ? 0 : 1;
    for (size_t i = 0; i < y_size; i++) dy[i] *= below(5) ? 0 : 1;
    l->turn(s, w, turned);
    l->backward(s, dy, turned, NULL, want, more);
    l->spread_weights(s, w, spread);
    l->backward_sparse(s, dy, spread, dx, scratch);
    wrong |= memcmp(dx, want, x_size * sizeof *dx) != 0;
    l->weights(s, true, x, dy, g, more);
    memcpy(sums, g, w_size * sizeof *g);
    l->weights(s, false, x, dy, g, more);
    l->spread_weights(s, sums, spread);
    l->weights_sparse(s, x, dy, spread, scratch);
    l->gather_weights(s, spread, back);
    wrong |= memcmp(g, back, w_size * sizeof *g) != 0;
    if (wrong)
        printf(
            "%s: %dx%dx%d -> %dx%dx%d, taps %dx%d, strides %d %d, dilation %d, from %d %d: zeros "
            "left out make a difference\n",
            l->name, s->h, s->w, s->c, s->oh, s->ow, s->oc, s->kh, s->kw, s->sh, s->sw, s->dh,
            s->top, s->left);
    float *all[] = {x, dy, w, want, dx, g, more, turned, scratch, spread, sums, back};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return wrong;
}

static bool supported(const char *name) {
    for (int i = 0; fn_simd_supported(i); i++)
        if (!strcmp(fn_simd_supported(i), name)) return true;
    return false;
}

int main(int argc, char **argv) {
    int wrong = 0;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (!supported(levels[i].name) || (argc > 1 && strcmp(argv[1], levels[i].name))) continue;
        srand(1);
        int tried = 0;
        while (tried < SHAPES) {
            const conv_shape s = random_shape();
            if (!s.oh) continue;
            wrong += try_shape(&levels[i], &s);
            tried++;
        }
        int sparse = 0;
        while (sparse < SHAPES / 2) {
            const conv_shape s = sparse_shape();
            if (!s.oh || !levels[i].spread(&s)) continue;
            wrong += try_sparse(&levels[i], &s);
            sparse++;
        }
        printf("%s: %d shapes, %d with zeros\n", levels[i].name, tried, sparse);
    }
    return wrong != 0;
}
