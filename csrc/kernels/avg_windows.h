/* avg_windows.h - average pooling with WIDTH channels in a vector; included once per width by
 * avg_pool.c, which takes the widest that has no more lanes than there are channels.
 */
#define W(name) FN_JOIN(name, WIDTH)

typedef float W(vec) __attribute__((vector_size(4 * WIDTH)));
typedef float W(loose) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

FN_INLINE W(vec) W(at)(const float *p) { return *(const W(loose) *)p; }
FN_INLINE void W(put)(float *p, W(vec) x) { *(W(loose) *)p = x; }

/* Row i of 2x2 windows side by side. */
static void W(halve_row)(int wo, int c, const float *a, const float *b, float *y) {
    for (int j = 0; j < wo; j++, a += 2 * c, b += 2 * c, y += c)
        for (int k = 0; k < c; k += WIDTH) {
            const int at = channel_block(k, WIDTH, c);
            const W(vec) upper = W(at)(a + at) + W(at)(a + c + at);
            const W(vec) lower = W(at)(b + at) + W(at)(b + c + at);
            W(put)(y + at, (upper + lower) * 0.25f);
        }
}

static void W(halve_back_row)(int wo, int c, const float *dy, float *da, float *db) {
    for (int j = 0; j < wo; j++, da += 2 * c, db += 2 * c, dy += c)
        for (int k = 0; k < c; k += WIDTH) {
            const int at = channel_block(k, WIDTH, c);
            const W(vec) g = W(at)(dy + at) * 0.25f;
            W(put)(da + at, g);
            W(put)(da + c + at, g);
            W(put)(db + at, g);
            W(put)(db + c + at, g);
        }
}

static void W(pool)(int c, int64_t line, window v, float share, const float *x, float *y) {
    for (int k = 0; k < c; k += WIDTH) {
        const int at = channel_block(k, WIDTH, c);
        W(vec) sum = {0};
        for (int i = v.y0; i < v.y1; i++) {
            const float *p = x + i * line + at;
            W(vec) of_line = {0};
            for (int j = v.x0; j < v.x1; j++) of_line += W(at)(p + (int64_t)j * c);
            sum += of_line;
        }
        W(put)(y + at, sum * share);
    }
}

/* The last vector overlaps the one before: when adding, lanes that had their turn get 0. */
static void W(pool_back)(int c, int64_t line, window v, float share, bool add, const float *dy,
                         float *dx) {
    for (int k = 0; k < c; k += WIDTH) {
        const int at = channel_block(k, WIDTH, c);
        W(vec) g = W(at)(dy + at) * share;
        if (add)
            for (int l = 0; l < k - at; l++) g[l] = 0;
        for (int i = v.y0; i < v.y1; i++) {
            float *p = dx + i * line + at;
            for (int j = v.x0; j < v.x1; j++) {
                float *to = p + (int64_t)j * c;
                W(put)(to, add ? W(at)(to) + g : g);
            }
        }
    }
}

#undef W
#undef WIDTH
