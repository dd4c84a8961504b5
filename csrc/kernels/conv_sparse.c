/* conv_sparse.c - the way back of a convolution whose dy is mostly zeros: behind a 2 x 2 maximum
 * three of four values are, and with a relu between them about four of five. Only what is not zero
 * is multiplied.
 *
 * The values that are not zero are listed, pixel after pixel, a block of rows at a time. Back to
 * the source, each adds its channel's taps (kh rows of kw * c floats that lie beside each other) to
 * the pixels that they meet. To the weights, a second list sorts them by channel, and a register
 * tile of one channel's taps goes through its list. Both go on in the order of the sums of conv.c,
 * so leaving zeros out changes no bit but the sign of a zero, unless a weight or a pixel is not
 * finite.
 */
#include "kernels/conv_frame.h"

enum {
    CHUNK = FN_LANES < 8 ? FN_LANES : 8, /* values looked at together */
    GROUP = 4,                           /* values of one pixel that share a pass over their taps */
    MOST_SUMS = FN_LANES == 4 ? 12 : 15, /* in registers beside a value (and, unfused, a product) */
    MOST_VECS = 12,
    BLOCK_VALUES = 16384, /* of dy in a block */
    SOURCE_FLOATS = 8192, /* of the source that a block meets: it stays in L1 */
    SAMPLES = 32          /* pixels looked at before it is decided */
};

/* Floats of one tap row of a channel, in whole vectors. */
static int64_t run_of(const conv_shape *s) {
    return ((int64_t)s->kw * s->c + LANES - 1) / LANES * LANES;
}

/* Whole chunks of channels, taps beside each other, and few lanes without one. */
static bool fits(const conv_shape *s) {
    const int64_t taps = (int64_t)s->kw * s->c;
    return s->groups == 1 && s->dw == 1 && s->oc % CHUNK == 0 && 4 * taps >= 3 * run_of(s) &&
           taps * s->kh >= 6 * LANES;
}

size_t FN_LEVELED(conv_spread)(const conv_shape *s) {
    return fits(s) ? (size_t)(s->oc * s->kh * run_of(s)) : 0;
}

bool FN_LEVELED(conv_mostly_zero)(const conv_shape *s, const float *dy) {
    const int pixels = s->oh * s->ow, step = (pixels + SAMPLES - 1) / SAMPLES;
    int64_t count = 0, all = 0;
    for (int p = step / 2; p < pixels; p += step, all += s->oc)
        for (int c = 0; c < s->oc; c++) count += dy[(int64_t)p * s->oc + c] != 0;
    return 8 * count <= 3 * all;
}

/* ---- weights by channel: [oc][kh][run], zeros behind the taps of a row ---- */

/* Four channels from `panel` (rows of `width`), a tap row of each; or back. */
static void spread_row(int64_t taps, int64_t run, int width, const float *panel, int64_t apart,
                       float *out) {
    int64_t k = 0;
    for (; k + 4 <= taps; k += 4) {
        vq r[4];
        for (int i = 0; i < 4; i++) r[i] = *(const vq_loose *)(panel + (k + i) * width);
        v_transpose4(r);
        for (int i = 0; i < 4; i++) *(vq_loose *)(out + i * apart + k) = r[i];
    }
    for (; k < run; k++)
        for (int i = 0; i < 4; i++) out[i * apart + k] = k < taps ? panel[k * width + i] : 0;
}

static void gather_row(int64_t taps, int width, const float *in, int64_t apart, float *panel) {
    int64_t k = 0;
    for (; k + 4 <= taps; k += 4) {
        vq r[4];
        for (int i = 0; i < 4; i++) r[i] = *(const vq_loose *)(in + i * apart + k);
        v_transpose4(r);
        for (int i = 0; i < 4; i++) *(vq_loose *)(panel + (k + i) * width) = r[i];
    }
    for (; k < taps; k++)
        for (int i = 0; i < 4; i++) panel[k * width + i] = in[i * apart + k];
}

/* Where channel c's first tap lies in panels, and how far apart its taps are. */
static int64_t in_panels(const conv_shape *s, int c, int *width) {
    *width = fn_panel_width(s->oc, c, LANES);
    return c / PANEL * PANEL * ((int64_t)s->kh * s->kw * s->c) + c % PANEL;
}

void FN_LEVELED(conv_spread_weights)(const conv_shape *s, const float *panels, float *spread) {
    const int64_t taps = (int64_t)s->kw * s->c, run = run_of(s), apart = s->kh * run;
    for (int c = 0, width; c < s->oc; c += 4) {
        const int64_t at = in_panels(s, c, &width);
        for (int a = 0; a < s->kh; a++)
            spread_row(taps, run, width, panels + at + a * taps * width, apart,
                       spread + c * apart + a * run);
    }
}

void FN_LEVELED(conv_gather_weights)(const conv_shape *s, const float *spread, float *panels) {
    const int64_t taps = (int64_t)s->kw * s->c, run = run_of(s), apart = s->kh * run;
    for (int c = 0, width; c < s->oc; c += 4) {
        const int64_t at = in_panels(s, c, &width);
        for (int a = 0; a < s->kh; a++)
            gather_row(taps, width, spread + c * apart + a * run, apart,
                       panels + at + a * taps * width);
    }
    int width;
    const int last = (s->oc - 1) / PANEL * PANEL;
    float *padded = panels + in_panels(s, last, &width);
    for (int64_t k = 0; s->oc - last < width && k < s->kh * taps; k++)
        zero(width - (s->oc - last), padded + k * width + s->oc - last);
}

/* ---- lists ---- */

/* Values that are not zero, in the order of dy: of which channel, and where in the framed source
 * their pixel's first tap lies. */
typedef struct {
    float *value;
    int32_t *channel, *at;
    int count;
} listed;

#if FN_LANES >= 8
/* Byte i: the place of the i-th bit of m that is set. */
#define PLACE(m, b) \
    ((uint64_t)((m) >> (b) & 1) * (b) << 8 * __builtin_popcount((m) & ((1 << (b)) - 1)))
#define ORDER(m)                                                                         \
    (PLACE(m, 1) | PLACE(m, 2) | PLACE(m, 3) | PLACE(m, 4) | PLACE(m, 5) | PLACE(m, 6) | \
     ((m) >> 7 & 1 ? (uint64_t)7 << 8 * (__builtin_popcount((m) & 127)) : 0))
#define ORDER4(m) ORDER(m), ORDER(m + 1), ORDER(m + 2), ORDER(m + 3)
#define ORDER16(m) ORDER4(m), ORDER4(m + 4), ORDER4(m + 8), ORDER4(m + 12)
#define ORDER64(m) ORDER16(m), ORDER16(m + 16), ORDER16(m + 32), ORDER16(m + 48)
static const uint64_t order[256] = {ORDER64(0), ORDER64(64), ORDER64(128), ORDER64(192)};

FN_INLINE void list_chunk(listed *l, const float *dy, int channel, int32_t at) {
    const __m256 v = _mm256_loadu_ps(dy);
    const unsigned mask =
        (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ));
    const __m256i where = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)&order[mask]));
    _mm256_storeu_ps(l->value + l->count, _mm256_permutevar8x32_ps(v, where));
    _mm256_storeu_si256((__m256i *)(l->channel + l->count),
                        _mm256_add_epi32(where, _mm256_set1_epi32(channel)));
    _mm256_storeu_si256((__m256i *)(l->at + l->count), _mm256_set1_epi32(at));
    l->count += __builtin_popcount(mask);
}
#else
FN_INLINE void list_chunk(listed *l, const float *dy, int channel, int32_t at) {
    for (int i = 0; i < CHUNK; i++) {
        l->value[l->count] = dy[i];
        l->channel[l->count] = channel + i;
        l->at[l->count] = at;
        l->count += dy[i] != 0;
    }
}
#endif

/* Values of one row of pixels; each pixel's filled up to whole groups with zeros. */
FN_INLINE void list_row(int group, const conv_shape *s, listed *l, const float *dy, int32_t at) {
    for (int p = 0; p < s->ow; p++, at += s->sw * s->c, dy += s->oc) {
        for (int c = 0; c < s->oc; c += CHUNK) list_chunk(l, dy + c, c, at);
        for (int i = 0; i < group - 1; i++) {
            l->value[l->count + i] = 0;
            l->channel[l->count + i] = 0;
            l->at[l->count + i] = at;
        }
        l->count = (l->count + group - 1) / group * group;
    }
}

static int block_rows(const conv_shape *s) {
    const int64_t rows = BLOCK_VALUES / ((int64_t)s->ow * s->oc);
    return rows < 1 ? 1 : rows < s->oh ? (int)rows : s->oh;
}

/* Floats of a list: a chunk is written behind the last value. */
static int64_t list_room(const conv_shape *s) {
    return block_rows(s) * (int64_t)s->ow * (s->oc + GROUP - 1) + 2 * CHUNK;
}

static listed empty_list(const conv_shape *s, float *memory) {
    const int64_t room = list_room(s);
    return (listed){memory, (int32_t *)(memory + room), (int32_t *)(memory + 2 * room), 0};
}

/* ---- back to the source ---- */

/* A group's taps, rows of `vecs` vectors, are added to the framed dx from its first pixel on. */
FN_INLINE void scatter(int vecs, int kh, int64_t tap_row, const float *value, const float *const *w,
                       float *dx) {
    vf v[GROUP];
    for (int i = 0; i < GROUP; i++) v[i] = v_set(value[i]);
    for (int a = 0, k = 0; a < kh; a++, dx += tap_row)
        for (int j = 0; j < vecs; j++, k += LANES) {
            vf sum = v_load(dx + j * LANES);
            for (int i = 0; i < GROUP; i++) sum = v_fma(v[i], v_load(w[i] + k), sum);
            v_store(dx + j * LANES, sum);
        }
}

FN_INLINE void scatter_list(int vecs, const conv_shape *s, int64_t row, const listed *l,
                            const float *spread, float *dx) {
    const int64_t apart = s->kh * run_of(s);
    for (int n = 0; n < l->count; n += GROUP) {
        const float *w[GROUP];
        for (int i = 0; i < GROUP; i++) w[i] = spread + l->channel[n + i] * apart;
        scatter(vecs, s->kh, s->dh * row, l->value + n, w, dx + l->at[n]);
    }
}

static void scatter_any(const conv_shape *s, int64_t row, const listed *l, const float *spread,
                        float *dx) {
    const int vecs = (int)(run_of(s) / LANES);
    switch (vecs) {
    case 3: scatter_list(3, s, row, l, spread, dx); break;
    case 5: scatter_list(5, s, row, l, spread, dx); break;
    case 6: scatter_list(6, s, row, l, spread, dx); break;
    case 12: scatter_list(12, s, row, l, spread, dx); break;
    default: scatter_list(vecs, s, row, l, spread, dx);
    }
}

static int64_t frame_floats(const conv_shape *s) {
    return (int64_t)source_height(s) * source_width(s) * s->c + LANES;
}

/* What a frame holds of dx (h, w, c); zeros where it does not reach. */
static void unframe(const conv_shape *s, const float *frame, float *dx) {
    const int64_t c = s->c, line = s->w * c;
    const int left = at_most(s->left, source_width(s)), seen = source_width(s) - left;
    const int64_t inside = at_most(s->w, seen) * c;
    for (int r = 0; r < s->h; r++, dx += line) {
        const bool there = r + s->top < source_height(s);
        const float *from = frame + ((int64_t)(r + s->top) * source_width(s) + left) * c;
        for (int64_t i = 0; there && i < inside; i++) dx[i] = from[i];
        zero(there ? line - inside : line, there ? dx + inside : dx);
    }
}

void FN_LEVELED(conv_backward_sparse)(const conv_shape *s, const float *dy, const float *spread,
                                      float *dx, float *scratch) {
    const int64_t row = (int64_t)source_width(s) * s->c;
    const int block = block_rows(s);
    float *frame = scratch;
    listed l = empty_list(s, scratch + frame_floats(s));
    zero(frame_floats(s), frame);
    for (int r = 0; r < s->oh; r += block) {
        l.count = 0;
        for (int i = r; i < r + block && i < s->oh; i++)
            list_row(GROUP, s, &l, dy + (int64_t)i * s->ow * s->oc, (int32_t)(i * s->sh * row));
        scatter_any(s, row, &l, spread, frame);
    }
    unframe(s, frame, dx);
}

/* ---- to the weights ---- */

typedef struct {
    int32_t at;
    float value;
} entry;

/* `rows` tap rows of one channel, `vecs` vectors of each: sums over the channel's list. */
FN_INLINE void sum_taps(int rows, int vecs, const float *x, int64_t tap_row, const entry *list,
                        int count, float *sums, int64_t run) {
    vf sum[3][MOST_VECS];
#pragma GCC unroll 3
    for (int a = 0; a < rows; a++)
#pragma GCC unroll 12
        for (int v = 0; v < vecs; v++) sum[a][v] = v_load(sums + a * run + v * LANES);
    for (int n = 0; n < count; n++) {
        const vf value = v_set(list[n].value);
        const float *from = x + list[n].at;
#pragma GCC unroll 3
        for (int a = 0; a < rows; a++)
#pragma GCC unroll 12
            for (int v = 0; v < vecs; v++)
                sum[a][v] = v_fma(value, v_load(from + a * tap_row + v * LANES), sum[a][v]);
    }
#pragma GCC unroll 3
    for (int a = 0; a < rows; a++)
#pragma GCC unroll 12
        for (int v = 0; v < vecs; v++) v_store(sums + a * run + v * LANES, sum[a][v]);
}

/* A tile of all channels. */
typedef struct {
    const conv_shape *s;
    const entry *lists;
    const int32_t *counts;
    int64_t room; /* entries from list to list */
    int64_t tap_row;
} tally;

FN_INLINE void sum_channels(int rows, int vecs, const tally *t, const float *x, float *sums) {
    const int64_t run = run_of(t->s), apart = t->s->kh * run;
    for (int c = 0; c < t->s->oc; c++)
        sum_taps(rows, vecs, x, t->tap_row, t->lists + c * t->room, t->counts[c], sums + c * apart,
                 run);
}

static void sum_tile(int rows, int vecs, const tally *t, const float *x, float *sums) {
#define TILE(r, v) \
    case 16 * r + v: sum_channels(r, v, t, x, sums); break;
    switch (16 * rows + vecs) {
        TILE(1, 1)
        TILE(1, 2)
        TILE(1, 3)
        TILE(1, 4)
        TILE(1, 5)
        TILE(1, 6)
        TILE(1, 7)
        TILE(1, 8)
        TILE(1, 9)
        TILE(1, 10)
        TILE(1, 11)
        TILE(1, 12)
        TILE(2, 1)
        TILE(2, 2)
        TILE(2, 3)
        TILE(2, 4)
        TILE(2, 5)
        TILE(2, 6)
        TILE(3, 1)
        TILE(3, 2)
        TILE(3, 3)
        TILE(3, 4)
#if FN_LANES > 4
        TILE(2, 7)
        TILE(3, 5)
#endif
    }
#undef TILE
}

/* All taps in tiles as even as can be: a few rows of them, or parts of one. */
static void sum_tiles(const tally *t, const float *x, float *sums) {
    const int vecs = (int)(run_of(t->s) / LANES), parts = (vecs + MOST_VECS - 1) / MOST_VECS;
    int together = parts > 1 ? 1 : MOST_SUMS / vecs;
    together = together < 1 ? 1 : together > 3 ? 3 : together;
    const int tiles = (t->s->kh + together - 1) / together;
    for (int i = 0, a = 0; i < tiles; i++) {
        const int rows = t->s->kh / tiles + (i < t->s->kh % tiles);
        for (int j = 0, v = 0; j < parts; j++) {
            const int n = vecs / parts + (j < vecs % parts);
            sum_tile(rows, n, t, x + a * t->tap_row + v * LANES,
                     sums + ((int64_t)a * vecs + v) * LANES);
            v += n;
        }
        a += rows;
    }
}

static int source_rows(const conv_shape *s, int64_t row) {
    const int most = block_rows(s), fits = (int)(SOURCE_FLOATS / (s->sh * row));
    const int block = fits < 1 ? 1 : fits < most ? fits : most;
    const int blocks = (s->oh + block - 1) / block;
    return (s->oh + blocks - 1) / blocks;
}

void FN_LEVELED(conv_weights_sparse)(const conv_shape *s, const float *x, const float *dy,
                                     float *sums, float *scratch) {
    picture source = framed_source(s, x, scratch);
    if (source.pixels == x && run_of(s) != (int64_t)s->kw * s->c) { /* read beyond the last pixel */
        memcpy(scratch, x, sizeof *x * (size_t)s->h * (size_t)s->w * (size_t)s->c);
        source.pixels = scratch;
    }
    scratch += frame_floats(s) > (int64_t)s->h * s->w * s->c + LANES
                   ? frame_floats(s)
                   : (int64_t)s->h * s->w * s->c + LANES;
    listed l = empty_list(s, scratch);
    const int block = source_rows(s, source.row);
    const int64_t room = (int64_t)block_rows(s) * s->ow;
    int32_t *counts = (int32_t *)(scratch + 3 * list_room(s));
    entry *lists = (entry *)(counts + (s->oc + 1) / 2 * 2);
    const tally t = {s, lists, counts, room, s->dh * source.row};
    for (int r = 0; r < s->oh; r += block) {
        l.count = 0;
        for (int i = r; i < r + block && i < s->oh; i++)
            list_row(1, s, &l, dy + (int64_t)i * s->ow * s->oc, (int32_t)(i * s->sh * source.row));
        memset(counts, 0, (size_t)s->oc * sizeof *counts);
        for (int i = 0; i < l.count; i++) {
            const int c = l.channel[i];
            lists[c * room + counts[c]++] = (entry){l.at[i], l.value[i]};
        }
        sum_tiles(&t, source.pixels, sums);
    }
}

/* Frame or copy, list, list by channel, and the sums that the caller puts in front. */
size_t FN_LEVELED(conv_sparse_scratch)(const conv_shape *s) {
    if (!fits(s)) return 0;
    const int64_t whole = (int64_t)s->h * s->w * s->c + LANES, frame = frame_floats(s);
    const int64_t lists =
        3 * list_room(s) + (s->oc + 1) / 2 * 2 + 2 * (int64_t)s->oc * block_rows(s) * s->ow;
    return FN_LEVELED(conv_spread)(s) + (size_t)((whole > frame ? whole : frame) + lists);
}
