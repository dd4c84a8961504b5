/* vec.h - one vector of FN_LANES floats per SIMD level, by the compiler's vector extensions.
 *
 * Files that include this are compiled once per level: base (SSE2 or NEON, 4 lanes), v3 (AVX2 +
 * FMA, 8), v4 (AVX-512, 16). v4 without AVX-512 (FN_LANES 16 on AVX2) is the same arithmetic in two
 * halves: it lets a machine without AVX-512 check the 16-lane code bit for bit. Kernels call v_fma
 * and never rely on the compiler contracting a*b+c, so main and tail loops round alike.
 */
#ifndef FN_VEC_H
#define FN_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define FN_INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * FN_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * FN_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * FN_LANES)));
typedef float vf_loose __attribute__((vector_size(4 * FN_LANES), aligned(4), may_alias));
typedef int32_t vi_loose __attribute__((vector_size(4 * FN_LANES), aligned(4), may_alias));
typedef float vq __attribute__((vector_size(16))); /* a quarter: 4 floats at every level */
typedef float vq_loose __attribute__((vector_size(16), aligned(4), may_alias));

FN_INLINE vf v_load(const float *p) { return *(const vf_loose *)p; }
FN_INLINE void v_store(float *p, vf x) { *(vf_loose *)p = x; }
FN_INLINE vf v_set(float x) { return x - (vf){0}; }
FN_INLINE vi v_seti(int32_t x) { return x - (vi){0}; }
FN_INLINE vi v_bits(vf x) { return (vi)x; }
FN_INLINE vf v_float(vi x) { return (vf)x; }

/* a * b + c, rounded once where the level has FMA (v3, v4, NEON), twice at the x86 base level. */
FN_INLINE vf v_fma(vf a, vf b, vf c) {
#if FN_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FN_LANES == 16
    for (int i = 0; i < 16; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#elif FN_LANES == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

FN_INLINE vf v_sqrt(vf a) {
#if FN_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)a);
#elif FN_LANES == 16
    for (int i = 0; i < 16; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
#elif FN_LANES == 8
    return (vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__aarch64__)
    return (vf)vsqrtq_f32((float32x4_t)a);
#else
    return (vf)_mm_sqrt_ps((__m128)a);
#endif
}

FN_INLINE vq v_sqrt4(vq a) {
#if defined(__aarch64__)
    return (vq)vsqrtq_f32((float32x4_t)a);
#else
    return (vq)_mm_sqrt_ps((__m128)a);
#endif
}

/* where(mask, a, b): mask lanes are all ones or zero, as comparisons give them. */
FN_INLINE vf v_where(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
FN_INLINE vf v_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }
/* The larger (smaller) of x and a bound that is no NaN; a NaN in x is kept, and x wins a tie of
 * zeros. */
FN_INLINE vf v_max(vf x, vf bound) {
#if FN_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)bound, (__m512)x);
#elif FN_LANES == 8
    return (vf)_mm256_max_ps((__m256)bound, (__m256)x);
#elif FN_LANES == 4 && defined(__x86_64__)
    return (vf)_mm_max_ps((__m128)bound, (__m128)x);
#else
    return v_where(x < bound, bound, x);
#endif
}
FN_INLINE vf v_min(vf x, vf bound) {
#if FN_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)bound, (__m512)x);
#elif FN_LANES == 8
    return (vf)_mm256_min_ps((__m256)bound, (__m256)x);
#elif FN_LANES == 4 && defined(__x86_64__)
    return (vf)_mm_min_ps((__m128)bound, (__m128)x);
#else
    return v_where(x > bound, bound, x);
#endif
}

FN_INLINE int v_any(vi mask) {
#if FN_LANES == 8
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif FN_LANES == 16 && defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    int32_t any = 0;
    for (int i = 0; i < FN_LANES; i++) any |= mask[i];
    return any != 0;
#endif
}

/* Bit i: lane i of a mask. */
FN_INLINE unsigned v_mask(vi mask) {
#if FN_LANES == 8
    return (unsigned)_mm256_movemask_ps((__m256)mask);
#elif FN_LANES == 16 && defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif FN_LANES == 4 && defined(__x86_64__)
    return (unsigned)_mm_movemask_ps((__m128)mask);
#else
    unsigned bits = 0;
    for (int i = 0; i < FN_LANES; i++) bits |= (unsigned)(mask[i] & 1) << i;
    return bits;
#endif
}

/* Lanes that are NaN or infinite: x - x is zero for every finite x. */
FN_INLINE vi v_nonfinite(vf x) { return x - x != 0.0f; }

/* Sum a vector down to 4 lanes: halves are added, top to bottom. */
FN_INLINE vq v_fold(vf x) {
#if FN_LANES == 16
    vq a = __builtin_shufflevector(x, x, 0, 1, 2, 3), b = __builtin_shufflevector(x, x, 4, 5, 6, 7);
    vq c = __builtin_shufflevector(x, x, 8, 9, 10, 11),
       d = __builtin_shufflevector(x, x, 12, 13, 14, 15);
    return (a + c) + (b + d);
#elif FN_LANES == 8
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    return x;
#endif
}

/* The lowest lane; none is NaN. */
FN_INLINE float v_least(vf x) {
#if FN_LANES == 8
    __m128 a = _mm_min_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    a = _mm_min_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_min_ss(a, _mm_movehdup_ps(a)));
#else
    float least = x[0];
    for (int i = 1; i < FN_LANES; i++) least = x[i] < least ? x[i] : least;
    return least;
#endif
}

/* The sums of four vectors as four floats, each (x0+x2)+(x1+x3) of its folded quarter. */
FN_INLINE vq v_sum4(vf a, vf b, vf c, vf d) {
    vq p = v_fold(a), q = v_fold(b), r = v_fold(c), s = v_fold(d);
    vq pq = __builtin_shufflevector(p, q, 0, 4, 1, 5) + __builtin_shufflevector(p, q, 2, 6, 3, 7);
    vq rs = __builtin_shufflevector(r, s, 0, 4, 1, 5) + __builtin_shufflevector(r, s, 2, 6, 3, 7);
    return __builtin_shufflevector(pq, rs, 0, 1, 4, 5) +
           __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
}

/* Transpose four quarters in place. */
FN_INLINE void v_transpose4(vq *r) {
    const vq a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5),
             b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7),
             c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5),
             d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* The same for each quarter of four vectors on its own. */
#if FN_LANES == 4
FN_INLINE void v_turn4(vf *r) { v_transpose4(r); }
#else
#if FN_LANES == 8
#define FN_ZIP(x, y, i, j) \
    __builtin_shufflevector(x, y, i, 8 + i, j, 8 + j, 4 + i, 12 + i, 4 + j, 12 + j)
#define FN_PAIR(x, y, i) \
    __builtin_shufflevector(x, y, i, 1 + i, 8 + i, 9 + i, 4 + i, 5 + i, 12 + i, 13 + i)
#else
#define FN_ZIP(x, y, i, j)                                                                   \
    __builtin_shufflevector(x, y, i, 16 + i, j, 16 + j, 4 + i, 20 + i, 4 + j, 20 + j, 8 + i, \
                            24 + i, 8 + j, 24 + j, 12 + i, 28 + i, 12 + j, 28 + j)
#define FN_PAIR(x, y, i)                                                                         \
    __builtin_shufflevector(x, y, i, 1 + i, 16 + i, 17 + i, 4 + i, 5 + i, 20 + i, 21 + i, 8 + i, \
                            9 + i, 24 + i, 25 + i, 12 + i, 13 + i, 28 + i, 29 + i)
#endif
FN_INLINE void v_turn4(vf *r) {
    const vf a = FN_ZIP(r[0], r[1], 0, 1), b = FN_ZIP(r[0], r[1], 2, 3),
             c = FN_ZIP(r[2], r[3], 0, 1), d = FN_ZIP(r[2], r[3], 2, 3);
    r[0] = FN_PAIR(a, c, 0), r[1] = FN_PAIR(a, c, 2);
    r[2] = FN_PAIR(b, d, 0), r[3] = FN_PAIR(b, d, 2);
}
#undef FN_ZIP
#undef FN_PAIR
#endif

/* A quarter in all quarters. */
FN_INLINE vf v_spread4(vq q) {
#if FN_LANES == 16
    return __builtin_shufflevector(q, q, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
#elif FN_LANES == 8
    return __builtin_shufflevector(q, q, 0, 1, 2, 3, 0, 1, 2, 3);
#else
    return q;
#endif
}

FN_INLINE float v_sum(vf a) {
    vq q = v_sum4(a, a, a, a);
    return q[0];
}

#endif
