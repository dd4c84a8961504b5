/* vmath.h - exp, log, tanh, erf and their kin over one vector of floats.
 *
 * The same branch-free arithmetic at every level: no tables, no libm, no reciprocal estimates.
 * Levels with FMA agree bit for bit, the x86 base level (v_fma = multiply, add) to an ULP or two.
 * NaN gives NaN, an infinity the limit; odd functions, expm1 and log1p keep the sign of a zero.
 *
 * The bounds below are the largest errors in ULP over all 2^32 floats (base level; levels with
 * FMA), against libm in double: tests/c/test_vmath.c measures and asserts them. They hold with
 * FTZ/DAZ on, as the engine runs, and off, but for this: denormal results, and denormal arguments
 * of v_log, may be taken for zero; with FTZ/DAZ a result below 2^-120 may be off by 2^-125.
 * Polynomials are minimax fits in relative error, rounded to float one coefficient at a time with
 * the others refitted.
 */
#ifndef FN_VMATH_H
#define FN_VMATH_H

#include "vec.h"

/* ln 2 in two parts: n * FN_LN2_HI is exact for |n| < 512. */
#define FN_LN2_HI 0x1.62e400p-1f
#define FN_LN2_LO 0x1.7f7d1cp-20f
#define FN_SQRT_HALF_BITS 0x3f3504f3u

FN_INLINE vf v_keep_sign(vf y, vf x) { return (vf)((vi)y | ((vi)x & INT32_MIN)); }

/* e^x = 2^n (1 + t), t in [-0.2930, 0.4143]; returns t, which has digits that 1 + t would lose.
 * The low 9 bits of *k are n + bias; the caller sees to it that x leaves them in range. */
FN_INLINE vf v_exp_split(vf x, float bias, vu *k) {
    const float magic = 0x1.8p23f + bias; /* adding it rounds to an integer, kept in the low bits */
    vf m = v_fma(x, v_set(0x1.715476p+0f), v_set(magic));
    vf n = m - magic;
    vf r = v_fma(n, v_set(-FN_LN2_HI), x);
    r = v_fma(n, v_set(-FN_LN2_LO), r);
    vf h = r * r; /* e^r - 1 = r + h q, with even and odd powers side by side: a shorter chain */
    vf q = v_fma(r, v_set(0x1.12398ep-7f), v_set(0x1.5558b0p-5f));
    q = v_fma(h, v_set(0x1.6a4d5cp-10f), q);
    q = v_fma(h, q, v_fma(r, v_set(0x1.555492p-3f), v_set(0x1.fffffcp-2f)));
    *k = (vu)m;
    return v_fma(h, q, r);
}

/* e^x. ULP: 1.00; 1.04. */
FN_INLINE vf v_exp(vf x) {
    vu k;
    vf t = v_exp_split(v_min(v_max(x, v_set(-104.0f)), v_set(89.0f)), 254.0f, &k);
    vu half = k >> 1; /* 2^n as a product of two: n from -150 to 128 does not fit one exponent */
    return (1.0f + t) * (vf)(half << 23) * (vf)((k - half) << 23);
}

/* e^x - 1. ULP: 1.66; 1.54. */
FN_INLINE vf v_expm1(vf x) {
    vu k;
    vf t = v_exp_split(v_min(v_max(x, v_set(-18.0f)), v_set(89.0f)), 126.0f, &k);
    vf s = (vf)(k << 23); /* 2^(n-1), finite up to n = 128 */
    return v_keep_sign(2.0f * v_fma(s, t, s - 0.5f), x);
}

/* e ln 2 + log(1 + f), f in [-0.2930, 0.4143]. */
FN_INLINE vf v_log_join(vf f, vf e) {
    vf h = f * f;
    vf p = v_fma(f, v_set(-0x1.38c9dep-4f), v_set(0x1.055ec6p-3f));
    p = v_fma(h, p, v_fma(f, v_set(-0x1.0d8242p-3f), v_set(0x1.22d92ep-3f)));
    p = v_fma(h, p, v_fma(f, v_set(-0x1.54728ap-3f), v_set(0x1.99a01cp-3f)));
    p = v_fma(h, p, v_fma(f, v_set(-0x1.000226p-2f), v_set(0x1.555554p-2f)));
    vf y = v_fma(e, v_set(FN_LN2_LO), h * f * p);
    y = v_fma(h, v_set(-0.5f), y);
    return v_fma(e, v_set(FN_LN2_HI), f + y);
}

/* log x; -inf below 2^-126 (of either sign), NaN for other negative x. ULP: 0.86; 0.86. */
FN_INLINE vf v_log(vf x) {
    vu k = ((vu)x - FN_SQRT_HALF_BITS) & 0xff800000u; /* exponent of x / sqrt(1/2), in place */
    vf e = __builtin_convertvector((vi)k >> 23, vf);
    vf y = v_log_join((vf)((vu)x - k) - 1.0f, e);
    vf edge = v_where(x < 0x1p-126f, v_set(-INFINITY), x);
    edge = v_where(x <= -0x1p-126f, v_set(NAN), edge);
    return v_where((x >= 0x1p-126f) & (x < INFINITY), y, edge);
}

/* log(1 + x). ULP: 1.45; 1.44. */
FN_INLINE vf v_log1p(vf x) {
    vu k = ((vu)(1.0f + x) - FN_SQRT_HALF_BITS) & 0xff800000u;
    vf e = __builtin_convertvector((vi)k >> 23, vf);
    vf s = (vf)(0x40800000u - k); /* 4 * 2^-e; f = (1 + x) 2^-e - 1 without the rounding of 1 + x */
    vf y = v_log_join(v_fma(0.25f * x, s, 0.25f * s - 1.0f), e);
    vf edge = v_where(x == -1.0f, v_set(-INFINITY), v_where(x < -1.0f, v_set(NAN), x));
    return v_where((x > -1.0f) & (x < INFINITY) & (v_abs(x) >= 0x1p-26f), y, edge);
}

/* tanh x: x + x^3 P(x^2), and from 0.55 on 1 - 2 / (1 + e^(2x)). ULP: 1.36; 1.35. */
FN_INLINE vf v_tanh(vf x) {
    vu k;
    vf a = v_abs(x), z = a * a;
    vf p = v_fma(z, v_set(-0x1.995660p-8f), v_set(0x1.58ec78p-6f));
    p = v_fma(p, z, v_set(-0x1.b91f20p-5f));
    p = v_fma(p, z, v_set(0x1.110cf0p-3f));
    p = v_fma(p, z, v_set(-0x1.55554ap-2f));
    vf t = v_exp_split(v_min(a + a, v_set(18.2f)), 127.0f, &k);
    vf s = (vf)(k << 23);
    vf y = 1.0f - 2.0f / v_fma(s, t, s + 1.0f);
    return v_keep_sign(v_where(a < 0.55f, v_fma(p * z, a, a), y), x);
}

/* 1 / (1 + e^-x). ULP: 1.75; 1.72. */
FN_INLINE vf v_sigmoid(vf x) {
    vu k;
    vf t = v_exp_split(v_max(v_min(-x, v_set(88.0f)), v_set(-87.0f)), 127.0f, &k);
    vf s = (vf)(k << 23), c = s + 1.0f;
    vf lost = 1.0f - (c - s); /* of the 1, where s is 2^24 and more */
    vf y = 1.0f / (c + v_fma(s, t, lost));
    return (vf)((vi)y & ~(x < -88.0f));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|). ULP: 1.72; 1.72 (every float of 2^-27 <= |x| < 2^7;
 * a grid of 2^20 beyond). */
FN_INLINE vf v_softplus(vf x) {
    vf u = v_exp(-v_abs(x)); /* in [0, 1]: the scaling of v_log1p comes down to one choice */
    vi large = u > 0x1.a8279ap-2f;
    vf f = v_where(large, 0.5f * u - 0.5f, u);
    return v_max(x, v_set(0.0f)) + v_log_join(f, (vf)((vi)v_set(1.0f) & large));
}

/* erf x: x + x P(x^2), and from 0.84 on 1 - e^(x Q(x)). ULP: 1.12; 1.03. */
FN_INLINE vf v_erf(vf x) {
    vf a = v_min(v_abs(x), v_set(3.95f)), z = a * a;
    vf p = v_fma(z, v_set(-0x1.4ea96cp-11f), v_set(0x1.4bcf64p-8f));
    p = v_fma(p, z, v_set(-0x1.b7416ep-6f));
    p = v_fma(p, z, v_set(0x1.ce25fap-4f));
    p = v_fma(p, z, v_set(-0x1.812728p-2f));
    p = v_fma(p, z, v_set(0x1.06eba8p-3f));
    vf q = v_fma(a, v_set(0x1.c4b6eap-13f), v_set(-0x1.a768d4p-9f));
    q = v_fma(q, a, v_set(0x1.77d482p-6f));
    q = v_fma(q, a, v_set(-0x1.af761ap-4f));
    q = v_fma(q, a, v_set(-0x1.457576p-1f));
    q = v_fma(q, a, v_set(-0x1.20e766p+0f));
    vu k;
    vf t = v_exp_split(q * a, 127.0f, &k);
    vf s = (vf)(k << 23);
    vf y = v_where(a < 0.84f, v_fma(p, a, a), v_fma(-s, t, 1.0f - s));
    return v_keep_sign(y, x);
}

/* ---- activations that need more than a line, and their derivatives ----
 * Their errors are relative to |y| + 2^-118: a factor e^x below 2^-126 may be zero. */

/* The normal distribution function, relative error (2 + x^2/2) 2^-23, and *e =
 * e^(-x^2/2). With u = 1 / (1 + 0.345 |x|) the lower tail is e u P(u), until it
 * underflows at x = -13.4. */
FN_INLINE vf v_normal_cdf(vf x, vf *e) {
    vf u = 1.0f / v_fma(v_abs(x), v_set(0.345f), v_set(1.0f));
    vf p = v_fma(u, v_set(-0x1.d1c10ep-6f), v_set(0x1.29f620p-3f));
    p = v_fma(p, u, v_set(-0x1.161712p-2f));
    p = v_fma(p, u, v_set(0x1.803f80p-3f));
    p = v_fma(p, u, v_set(-0x1.3640e2p-5f));
    p = v_fma(p, u, v_set(0x1.ca5db2p-4f));
    p = v_fma(p, u, v_set(0x1.e01b38p-4f));
    p = v_fma(p, u, v_set(0x1.1aac5ap-3f));
    p = v_fma(p, u, v_set(0x1.19d80ep-3f));
    *e = v_exp(-0.5f * x * x);
    vf tail = *e * (u * p);
    return v_where(x < 0.0f, tail, 1.0f - tail);
}

FN_INLINE vf v_gelu(vf x) {
    vf e;
    vf cdf = v_normal_cdf(x, &e);
    return v_max(x, v_set(-20.0f)) * cdf; /* bounded, so that -inf gives -0 */
}
FN_INLINE vf v_gelu_grad(vf x) {
    vf e;
    vf cdf = v_normal_cdf(x, &e);
    vf bounded = v_min(v_max(x, v_set(-20.0f)), v_set(20.0f));
    return v_fma(bounded * e, v_set(0x1.988454p-2f), cdf); /* 1 / sqrt(2 pi) */
}

FN_INLINE vf v_silu(vf x) { return v_max(x, v_set(-104.0f)) * v_sigmoid(x); }
/* s (1 + x (1 - s)), s = sigmoid x; 1 - s is taken from e^-|x|, without cancellation. */
FN_INLINE vf v_silu_grad(vf x) {
    vf e = v_exp(-v_abs(x));
    vf large = 1.0f / (1.0f + e), small = e * large;
    vi negative = x < 0.0f;
    vf s = v_where(negative, small, large), rest = v_where(negative, large, small);
    return s * v_fma(v_min(v_max(x, v_set(-104.0f)), v_set(104.0f)), rest, v_set(1.0f));
}

/* x tanh(softplus x) = x n / (n + 2), n = e (e + 2), e = e^x; beyond x = 20 the factor is 1. */
FN_INLINE vf v_mish(vf x) {
    vf e = v_exp(v_min(x, v_set(20.0f)));
    vf n = e * (e + 2.0f);
    return v_max(x, v_set(-104.0f)) * (n / (n + 2.0f));
}
/* (n (n + 2) + 4 x e (1 + e)) / (n + 2)^2. */
FN_INLINE vf v_mish_grad(vf x) {
    vf bounded = v_min(v_max(x, v_set(-104.0f)), v_set(20.0f));
    vf e = v_exp(bounded);
    vf n = e * (e + 2.0f), d = n + 2.0f;
    return v_fma(n, d, 4.0f * bounded * (e * (1.0f + e))) / (d * d);
}

FN_INLINE vf v_softsign(vf x) {
    vf bounded = v_min(v_max(x, v_set(-0x1p126f)), v_set(0x1p126f)); /* inf / inf is no limit */
    return bounded / (1.0f + v_abs(bounded));
}

FN_INLINE vf v_hard_sigmoid(vf x) {
    return v_min(v_max(x + 3.0f, v_set(0.0f)), v_set(6.0f)) * (1.0f / 6.0f);
}
FN_INLINE vf v_hard_swish(vf x) { return v_max(x, v_set(-3.0f)) * v_hard_sigmoid(x); }
FN_INLINE vf v_hard_swish_grad(vf x) {
    vf middle = v_fma(x, v_set(1.0f / 3.0f), v_set(0.5f));
    return v_where(x <= -3.0f, v_set(0.0f), v_where(x >= 3.0f, v_set(1.0f), middle));
}

#endif
