/* max_windows.h - max pooling with WIDTH channels in a vector; included once per width by
 * max_pool.c, which takes the widest that has no more lanes than there are channels.
 */
#define W(name) FN_JOIN(name, WIDTH)

typedef float W(vec) __attribute__((vector_size(4 * WIDTH)));
typedef int32_t W(mask) __attribute__((vector_size(4 * WIDTH)));
typedef float W(loose) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

FN_INLINE W(vec) W(at)(const float *p) { return *(const W(loose) *)p; }
FN_INLINE void W(put)(float *p, W(vec) x) { *(W(loose) *)p = x; }
FN_INLINE W(vec) W(only)(W(mask) m, W(vec) x) { return (W(vec))(m & (W(mask))x); }

/* The larger of m and x, m of equals; NaN if either is. */
FN_INLINE W(vec) W(max)(W(vec) m, W(vec) x) {
#if WIDTH == 4 && defined(__SSE__)
    const W(vec) most = (W(vec))_mm_max_ps((__m128)x, (__m128)m); /* m if one of them is NaN */
#elif WIDTH == 8 && defined(__AVX__)
    const W(vec) most = (W(vec))_mm256_max_ps((__m256)x, (__m256)m);
#elif WIDTH == 16 && defined(__AVX512F__)
    const W(vec) most = (W(vec))_mm512_max_ps((__m512)x, (__m512)m);
#else
    const W(mask) less = m < x;
    const W(vec) most = (W(vec))((less & (W(mask))x) | (~less & (W(mask))m));
#endif
    return (W(vec))((W(mask))most | (x != x));
}

/* Row i of 2x2 windows side by side; c is a constant where this is inlined with one. */
FN_INLINE void W(halve)(int wo, int c, const float *a, const float *b, float *y) {
    for (int j = 0; j < wo; j++, a += 2 * c, b += 2 * c, y += c)
        for (int k = 0; k < c; k += WIDTH) {
            const int at = channel_block(k, WIDTH, c);
            const W(vec) upper = W(max)(W(at)(a + at), W(at)(a + c + at));
            const W(vec) lower = W(max)(W(at)(b + at), W(at)(b + c + at));
            W(put)(y + at, W(max)(upper, lower));
        }
}

/* The first maximum in window order gets dy, the others nothing. */
FN_INLINE void W(halve_back)(int wo, int c, const float *a, const float *b, const float *dy,
                             float *da, float *db) {
    for (int j = 0; j < wo; j++, a += 2 * c, b += 2 * c, da += 2 * c, db += 2 * c, dy += c)
        for (int k = 0; k < c; k += WIDTH) {
            const int at = channel_block(k, WIDTH, c);
            const W(vec) x0 = W(at)(a + at), x1 = W(at)(a + c + at), x2 = W(at)(b + at),
                         x3 = W(at)(b + c + at), g = W(at)(dy + at);
            const W(vec) upper = W(max)(x0, x1), most = W(max)(upper, W(max)(x2, x3));
            const W(mask) in_upper = upper == most, is0 = x0 == most, is2 = x2 == most;
            const W(vec) up = W(only)(in_upper, g), down = W(only)(~in_upper, g);
            W(put)(da + at, W(only)(is0, up));
            W(put)(da + c + at, W(only)(~is0, up));
            W(put)(db + at, W(only)(is2, down));
            W(put)(db + c + at, W(only)(~is2, down));
        }
}

#define FN_EACH_CHANNELS(c, call_with)    \
    switch (c) {                          \
    case WIDTH: call_with(WIDTH);         \
    case 2 * WIDTH: call_with(2 * WIDTH); \
    case 4 * WIDTH: call_with(4 * WIDTH); \
    default: call_with(c);                \
    }

static void W(halve_row)(int wo, int c, const float *a, const float *b, float *y) {
#define WITH(n)               \
    W(halve)(wo, n, a, b, y); \
    return
    FN_EACH_CHANNELS(c, WITH)
#undef WITH
}

static void W(halve_back_row)(int wo, int c, const float *a, const float *b, const float *dy,
                              float *da, float *db) {
#define WITH(n)                             \
    W(halve_back)(wo, n, a, b, dy, da, db); \
    return
    FN_EACH_CHANNELS(c, WITH)
#undef WITH
}
#undef FN_EACH_CHANNELS

/* From here on a window is its first pixel and its size, which are constants for whole 3x3 windows:
 * the compiler then unrolls them. */
FN_INLINE W(vec) W(most)(const float *x, int rows, int cols, int64_t line, int c) {
    W(vec) m = W(at)(x);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) m = W(max)(m, W(at)(x + i * line + (int64_t)j * c));
    return m;
}

FN_INLINE void W(pool_sized)(int rows, int cols, int64_t line, int c, const float *x, float *y) {
    for (int k = 0; k < c; k += WIDTH) {
        const int at = channel_block(k, WIDTH, c);
        W(put)(y + at, W(most)(x + at, rows, cols, line, c));
    }
}

/* Adds to dx. The last vector overlaps the one before: lanes that had their turn get nothing. */
FN_INLINE void W(pool_back_sized)(int rows, int cols, int64_t line, int c, const float *x,
                                  const float *dy, float *dx) {
    for (int k = 0; k < c; k += WIDTH) {
        const int at = channel_block(k, WIDTH, c);
        const W(vec) m = W(most)(x + at, rows, cols, line, c);
        W(vec) g = W(at)(dy + at);
        for (int l = 0; l < k - at; l++) g[l] = 0;
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++) {
                const int64_t p = i * line + (int64_t)j * c + at;
                const W(mask) hit = W(at)(x + p) == m;
                W(put)(dx + p, W(at)(dx + p) + W(only)(hit, g));
                g = W(only)(~hit, g);
            }
    }
}

static void W(pool)(int c, int64_t line, window v, const float *x, float *y) {
    const int rows = v.y1 - v.y0, cols = v.x1 - v.x0;
    x += v.y0 * line + (int64_t)v.x0 * c;
    if (rows == 3 && cols == 3)
        W(pool_sized)(3, 3, line, c, x, y);
    else
        W(pool_sized)(rows, cols, line, c, x, y);
}

static void W(pool_back)(int c, int64_t line, window v, const float *x, const float *dy,
                         float *dx) {
    const int rows = v.y1 - v.y0, cols = v.x1 - v.x0;
    const int64_t corner = v.y0 * line + (int64_t)v.x0 * c;
    if (rows == 3 && cols == 3)
        W(pool_back_sized)(3, 3, line, c, x + corner, dy, dx + corner);
    else
        W(pool_back_sized)(rows, cols, line, c, x + corner, dy, dx + corner);
}

#undef W
#undef WIDTH
