/* test_vmath.c - the vector functions of vmath.h and the activations against libm in double.
 *
 *   gcc -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -Icsrc -Icsrc/kernels
 *       LEVEL tests/c/test_vmath.c -lm -o test_vmath && ./test_vmath [full] [name ...]
 *   LEVEL: -DFN_LEVEL=base -DFN_LANES=4
 *          -DFN_LEVEL=v3 -DFN_LANES=8 -mavx2 -mfma
 *          -DFN_LEVEL=v4 -DFN_LANES=16 -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mfma
 *          -DFN_LEVEL=v4 -DFN_LANES=16 -mavx2 -mfma -Wno-psabi  (v4 where there is no AVX-512)
 *
 * Without names: every function and activation. Inputs: a seeded point in each of 2^20 equal parts
 * of the float bit patterns (activations: 2^19), about a second; `full`: all 2^32 (2^24), some 15
 * minutes. Each is evaluated with denormals and with FTZ/DAZ on. Prints a line per function; `bits`
 * is a hash of the results: levels with FMA have the same.
 */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmath.h"

#if defined(__x86_64__) && FN_LANES == 4
enum { FMA = 0 };
#else
enum { FMA = 1 };
#endif
enum { BLOCK = 4096, DENORMALS = 0, FLUSH = 1 };
#define STRING_(x) #x
#define STRING(x) STRING_(x)

static int failures;

static void fail(const char *name, int mode, float x, double got, double want) {
    if (failures++ < 10)
        printf("FAIL %s(%.9g = %a)%s: got %.9g = %a, want %.17g\n", name, x, x,
               mode == FLUSH ? " with FTZ/DAZ" : "", got, got, want);
}

static void set_mode(int mode) {
#if defined(__x86_64__)
    _mm_setcsr((_mm_getcsr() & ~0x8040u) | (mode == FLUSH ? 0x8040u : 0));
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    fpcr = (fpcr & ~(1ull << 24)) | ((uint64_t)(mode == FLUSH) << 24);
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr));
#endif
}

static float from_bits(uint32_t b) {
    float x;
    memcpy(&x, &b, 4);
    return x;
}
static uint32_t to_bits(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}
static int denormal(double x) { return x != 0 && fabs(x) < FLT_MIN; }

/* Inputs: point i of 2^log2_n, at a seeded place within its part of the 2^32 patterns. */
static float grid(uint64_t i, int log2_n) {
    uint64_t z = (i + 20240229) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    uint64_t step = 1ull << (32 - log2_n);
    return from_bits((uint32_t)(i * step + ((z ^ (z >> 31)) & (step - 1))));
}

/* ---- the functions ---- */

typedef void vector_fn(const float *x, float *y, int n);

#define VECTOR(f)                                                                   \
    static void vector_##f(const float *x, float *y, int n) {                       \
        for (int i = 0; i < n; i += FN_LANES) v_store(y + i, v_##f(v_load(x + i))); \
    }
/* clang-format off */
VECTOR(exp)
VECTOR(expm1)
VECTOR(log)
VECTOR(log1p)
VECTOR(tanh)
VECTOR(sigmoid)
VECTOR(erf)
VECTOR(softplus)
/* clang-format on */

static double true_log(double x) { return denormal(x) ? -INFINITY : log(x); } /* as documented */
static double true_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double true_softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))) + 0 * x; }

typedef struct {
    const char *name;
    vector_fn *vector;
    double (*truth)(double);
    double bound[2]; /* ULP: without FMA, with; as in vmath.h */
} function;

static const function functions[] = {
    {"exp", vector_exp, exp, {1.00, 1.04}},
    {"expm1", vector_expm1, expm1, {1.66, 1.54}},
    {"log", vector_log, true_log, {0.86, 0.86}},
    {"log1p", vector_log1p, log1p, {1.45, 1.44}},
    {"tanh", vector_tanh, tanh, {1.36, 1.35}},
    {"sigmoid", vector_sigmoid, true_sigmoid, {1.75, 1.72}},
    {"erf", vector_erf, erf, {1.12, 1.03}},
    {"softplus", vector_softplus, true_softplus, {1.72, 1.72}},
};

typedef struct {
    double worst;
    float where;
    uint64_t hash, count;
} outcome;

/* The error of y in units of the last place of a float near `want`; -1 where ULP do not apply and
 * y is right, infinity where it is wrong. Tiny results may have been flushed, or what led there. */
static inline double ulp_error(float y, double want, int mode) {
    if (isnan(want)) return isnan(y) ? -1 : INFINITY;
    if (isnan(y)) return INFINITY;
    if (isinf(want)) return y == want ? -1 : INFINITY;
    if (y == 0 && !signbit(y) != !signbit(want)) return INFINITY;
    double got = isinf(y) ? copysign(0x1p128, y) : (double)y; /* a rounded overflow */
    if (fabs(want) > 0x1p128) want = copysign(0x1p128, want);
    double error = fabs(got - want), ulp = 0x1p-149;
    if (mode == FLUSH && fabs(want) < 0x1p-120 && error <= 0x1p-125) return -1;
    if (fabs(want) < 0x1p-126 && error <= 0x1p-126) return -1;
    if (fabs(want) >= 0x1p-126) { /* the power of two below |want|, times 2^-23 */
        uint64_t bits;
        memcpy(&bits, &want, 8);
        bits = (bits & 0x7ff0000000000000ull) - (23ull << 52);
        memcpy(&ulp, &bits, 8);
    }
    return error / ulp;
}

static void check_block(const function *f, const float *x, int n, outcome *out) {
    static float y[2][BLOCK];
    for (int mode = 0; mode < 2; mode++) {
        set_mode(mode);
        f->vector(x, y[mode], BLOCK);
        set_mode(DENORMALS);
    }
    for (int i = 0; i < n; i++) {
        double want = f->truth(x[i]);
        for (int mode = 0; mode < 2; mode++) {
            double e = ulp_error(y[mode][i], want, mode);
            if (e > f->bound[FMA]) fail(f->name, mode, x[i], y[mode][i], want);
            if (e > out->worst) out->worst = e, out->where = x[i];
        }
        out->hash = out->hash * 31 + (isnan(y[0][i]) ? 1 : to_bits(y[0][i]));
    }
    out->count += (uint64_t)n;
}

static void check_function(const function *f, int log2_n) {
    outcome out = {0};
    float x[BLOCK];
    for (uint64_t i = 0; i < 1ull << log2_n; i += BLOCK) {
        for (int j = 0; j < BLOCK; j++) x[j] = grid(i + (uint64_t)j, log2_n);
        check_block(f, x, BLOCK, &out);
    }
    printf("%-4s %-9s max %.4f ULP at %a (%.9g), %llu inputs, bits %016llx\n", STRING(FN_LEVEL),
           f->name, out.worst, out.where, out.where, (unsigned long long)out.count,
           (unsigned long long)out.hash);
    fflush(stdout);
}

/* ---- special values: exact results ---- */

static const struct {
    const char *name;
    float x, y;
} specials[] = {
    {"exp", 0.0f, 1.0f},           {"exp", -0.0f, 1.0f},
    {"exp", INFINITY, INFINITY},   {"exp", -INFINITY, 0.0f},
    {"exp", FLT_MAX, INFINITY},    {"exp", -FLT_MAX, 0.0f},
    {"exp", 1e-30f, 1.0f},         {"exp", 88.8f, INFINITY},
    {"expm1", 0.0f, 0.0f},         {"expm1", -0.0f, -0.0f},
    {"expm1", INFINITY, INFINITY}, {"expm1", -INFINITY, -1.0f},
    {"expm1", FLT_MAX, INFINITY},  {"expm1", -FLT_MAX, -1.0f},
    {"expm1", 1e-30f, 1e-30f},     {"expm1", -1e-30f, -1e-30f},
    {"expm1", 88.8f, INFINITY},    {"log", 1.0f, 0.0f},
    {"log", 0.0f, -INFINITY},      {"log", -0.0f, -INFINITY},
    {"log", -1.0f, NAN},           {"log", INFINITY, INFINITY},
    {"log", -INFINITY, NAN},       {"log", 1e-40f, -INFINITY},
    {"log", -1e-40f, -INFINITY},   {"log", -FLT_MAX, NAN},
    {"log", -FLT_MIN, NAN},        {"log1p", 0.0f, 0.0f},
    {"log1p", -0.0f, -0.0f},       {"log1p", -1.0f, -INFINITY},
    {"log1p", -2.0f, NAN},         {"log1p", INFINITY, INFINITY},
    {"log1p", -INFINITY, NAN},     {"log1p", 1e-30f, 1e-30f},
    {"log1p", -1e-30f, -1e-30f},   {"tanh", 0.0f, 0.0f},
    {"tanh", -0.0f, -0.0f},        {"tanh", INFINITY, 1.0f},
    {"tanh", -INFINITY, -1.0f},    {"tanh", FLT_MAX, 1.0f},
    {"tanh", -FLT_MAX, -1.0f},     {"tanh", 10.0f, 1.0f},
    {"tanh", -10.0f, -1.0f},       {"tanh", 1e-30f, 1e-30f},
    {"tanh", -1e-30f, -1e-30f},    {"sigmoid", 0.0f, 0.5f},
    {"sigmoid", -0.0f, 0.5f},      {"sigmoid", INFINITY, 1.0f},
    {"sigmoid", -INFINITY, 0.0f},  {"sigmoid", FLT_MAX, 1.0f},
    {"sigmoid", -FLT_MAX, 0.0f},   {"erf", 0.0f, 0.0f},
    {"erf", -0.0f, -0.0f},         {"erf", INFINITY, 1.0f},
    {"erf", -INFINITY, -1.0f},     {"erf", FLT_MAX, 1.0f},
    {"erf", -FLT_MAX, -1.0f},      {"erf", 4.0f, 1.0f},
    {"erf", -4.0f, -1.0f},         {"softplus", INFINITY, INFINITY},
    {"softplus", -INFINITY, 0.0f}, {"softplus", FLT_MAX, FLT_MAX},
    {"softplus", -FLT_MAX, 0.0f},  {"softplus", 0.0f, 0x1.62e430p-1f},
};

static void check_specials(const function *f) {
    const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7fc00001,
                             0x7fffffff, 0xffffffff, 0x7f800001};
    int n_nans = sizeof nans / sizeof *nans, n = sizeof specials / sizeof *specials;
    for (int i = 0; i < n + n_nans; i++) {
        if (i < n && strcmp(specials[i].name, f->name)) continue;
        float want = i < n ? specials[i].y : NAN;
        for (int lane = 0; lane < FN_LANES; lane++) {
            float x[FN_LANES], y[FN_LANES];
            for (int j = 0; j < FN_LANES; j++) x[j] = 0.5f;
            x[lane] = i < n ? specials[i].x : from_bits(nans[i - n]);
            for (int mode = 0; mode < 2; mode++) {
                set_mode(mode);
                f->vector(x, y, FN_LANES);
                set_mode(DENORMALS);
                int ok = isnan(want) ? isnan(y[lane]) : to_bits(y[lane]) == to_bits(want);
                if (!ok) fail(f->name, mode, x[lane], y[lane], want);
            }
        }
    }
}

/* ---- the activations ---- */

enum { FN_FROM_OUTPUT, FN_FROM_INPUT };
typedef void gradient_fn(const float *kept, const float *dy, float *dx, int n);

/* The derivative sees x or y alone, as its line says: the other name is not declared. */
#define KEPT_FN_FROM_OUTPUT vf y = v_load(kept + i)
#define KEPT_FN_FROM_INPUT vf x = v_load(kept + i)
#define FN_ACTIVATION(name, uses, forward, derivative)                                        \
    static void forward_##name(const float *input, float *output, int n) {                    \
        for (int i = 0; i < n; i += FN_LANES) {                                               \
            vf x = v_load(input + i);                                                         \
            v_store(output + i, forward);                                                     \
        }                                                                                     \
    }                                                                                         \
    static void gradient_##name(const float *kept, const float *gradient, float *dx, int n) { \
        for (int i = 0; i < n; i += FN_LANES) {                                               \
            vf dy = v_load(gradient + i);                                                     \
            KEPT_##uses;                                                                      \
            (void)sizeof(KEPT_NAME_##uses);                                                   \
            v_store(dx + i, derivative);                                                      \
        }                                                                                     \
    }
static const float slope = 0.2f;
#define KEPT_NAME_FN_FROM_OUTPUT y
#define KEPT_NAME_FN_FROM_INPUT x
#include "activations.def"
#undef FN_ACTIVATION

static double same(double x) { return x; }
static double one(double x) { return 1 + 0 * x; }
static double relu(double x) { return x > 0 ? x : 0 * x; }
static double d_relu(double x) { return x > 0; }
static double leaky(double x) { return x > 0 ? x : 0.2 * x; }
static double d_leaky(double x) { return x > 0 ? 1 : 0.2; }
static double elu(double x) { return x > 0 ? x : expm1(x); }
static double d_elu(double x) { return x > 0 ? 1 : exp(x); }
#define SELU 1.0507009873554805
#define SELU_ALPHA 1.6732632423543772
static double selu(double x) { return SELU * (x > 0 ? x : SELU_ALPHA * expm1(x)); }
static double d_selu(double x) { return SELU * (x > 0 ? 1 : SELU_ALPHA * exp(x)); }
static double gelu(double x) { return 0.5 * x * erfc(-x / sqrt(2)); }
static double d_gelu(double x) {
    return 0.5 * erfc(-x / sqrt(2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
}
static double silu(double x) { return x * true_sigmoid(x); }
static double d_silu(double x) { return true_sigmoid(x) * (1 + x * true_sigmoid(-x)); }
static double mish(double x) { return x * tanh(true_softplus(x)); }
static double d_mish(double x) {
    double t = tanh(true_softplus(x));
    return t + x * (1 - t * t) * true_sigmoid(x);
}
static double softsign(double x) { return x / (1 + fabs(x)); }
static double d_softsign(double x) { return 1 / ((1 + fabs(x)) * (1 + fabs(x))); }
static double ramp(double x) { return isnan(x) ? x : fmin(fmax((x + 3) / 6, 0), 1); }
static double d_ramp(double x) {
    float up = (float)x + 3.0f; /* float: whether 3 is reached depends on its rounding */
    return up > 0 && up < 6 ? 1.0 / 6 : 0;
}
static double hard_swish(double x) { return x * ramp(x); }
static double d_hard_swish(double x) { return x <= -3 ? 0 : x >= 3 ? 1 : (2 * x + 3) / 6; }
static double d_tanh(double x) { return 1 / (cosh(x) * cosh(x)); }
static double d_sigmoid(double x) { return true_sigmoid(x) * true_sigmoid(-x); }

/* Allowed: forward (ulps + growth x^2) 2^-23 |y| + 2^-118;
 * derivative (d_rel |d| + d_abs) 2^-23 + 2^-118. */
typedef struct {
    const char *name;
    double (*y)(double), (*d)(double);
    double ulps, growth, d_rel, d_abs;
} record;

static const record records[] = {
    {"linear", same, one, 0, 0, 0, 0},
    {"relu", relu, d_relu, 0, 0, 0, 0},
    {"leaky_relu", leaky, d_leaky, 1, 0, 1, 0},
    {"elu", elu, d_elu, 3, 0, 0, 3},
    {"selu", selu, d_selu, 4, 0, 1, 4},
    {"gelu", gelu, d_gelu, 4, 0.5, 0, 4},
    {"silu", silu, d_silu, 4, 0, 0, 4},
    {"mish", mish, d_mish, 6, 0, 0, 6},
    {"softplus", true_softplus, true_sigmoid, 4, 0, 5, 0},
    {"softsign", softsign, d_softsign, 2, 0, 0, 3},
    {"hard_sigmoid", ramp, d_ramp, 2, 0, 1, 0},
    {"hard_swish", hard_swish, d_hard_swish, 3, 0, 1, 1},
    {"tanh", tanh, d_tanh, 2, 0, 0, 3},
    {"sigmoid", true_sigmoid, d_sigmoid, 2, 0, 0, 2},
};

typedef struct {
    const char *name;
    vector_fn *forward;
    gradient_fn *gradient;
    int uses;
} activation;

static const activation activations[] = {
#define FN_ACTIVATION(name, uses, ...) {#name, forward_##name, gradient_##name, uses},
#include "activations.def"
#undef FN_ACTIVATION
};

static const record *find_record(const char *name) {
    for (size_t i = 0; i < sizeof records / sizeof *records; i++)
        if (!strcmp(records[i].name, name)) return &records[i];
    return NULL;
}

/* The error as a share of what is allowed; more than 1 or NaN is a failure. */
static double share(const char *name, int mode, float x, float got, double want, double allowed) {
    double error = fabs(got - want) / (allowed + 0x1p-118);
    if (fabs(want) > FLT_MAX) error = got == copysign(INFINITY, want) ? 0 : INFINITY;
    if (!(error <= 1)) fail(name, mode, x, got, want);
    return error;
}

/* worst: of the forward values, of the derivatives. */
static void check_activation_block(const activation *a, const record *r, const float *x,
                                   double worst[2]) {
    static float y[BLOCK], dy[BLOCK], dx[BLOCK];
    for (int i = 0; i < BLOCK; i++) dy[i] = i % 3 ? 1.5f : -0.625f;
    for (int mode = 0; mode < 2; mode++) {
        set_mode(mode);
        a->forward(x, y, BLOCK);
        a->gradient(a->uses == FN_FROM_OUTPUT ? y : x, dy, dx, BLOCK);
        set_mode(DENORMALS);
        for (int i = 0; i < BLOCK; i++) {
            if (isnan(x[i])) {
                if (!isnan(y[i])) fail(a->name, mode, x[i], y[i], NAN);
                continue;
            }
            /* The formula at 1e30 stands for the limit at infinity. */
            double at = isinf(x[i]) ? copysign(1e30, x[i]) : x[i], want = r->y(at);
            if (isinf(x[i]) && fabs(want) > 1e20) want = copysign(INFINITY, want);
            double allowed = (r->ulps + r->growth * at * at) * 0x1p-23 * fabs(want);
            worst[0] = fmax(worst[0], share(a->name, mode, x[i], y[i], want, allowed));
            if (mode == FLUSH && denormal(x[i])) continue; /* either side of a kink at zero */
            want = r->d(at) * dy[i];
            allowed = (r->d_rel * fabs(want) + r->d_abs * fabs(dy[i])) * 0x1p-23;
            worst[1] = fmax(worst[1], share(a->name, mode, x[i], dx[i], want, allowed));
        }
    }
}

static void check_activation(const activation *a, int log2_n) {
    static const float extremes[] = {0.0f,     -0.0f,   INFINITY, -INFINITY, FLT_MAX,
                                     -FLT_MAX, FLT_MIN, -FLT_MIN, 1e-40f,    -1e-40f,
                                     NAN,      -NAN,    3.0f,     -3.0f};
    const record *r = find_record(a->name);
    double worst[2] = {0, 0};
    float x[BLOCK];
    if (!r) {
        printf("FAIL %s has no record in this test\n", a->name);
        failures++;
        return;
    }
    for (uint64_t i = 0; i < 1ull << log2_n; i += BLOCK) {
        for (int j = 0; j < BLOCK; j++) x[j] = grid(i + (uint64_t)j, log2_n);
        if (i == 0) memcpy(x + 7, extremes, sizeof extremes);
        check_activation_block(a, r, x, worst);
    }
    printf("%-4s activation %-12s forward %.2f, derivative %.2f of what is allowed, %llu inputs\n",
           STRING(FN_LEVEL), a->name, worst[0], worst[1], 1ull << log2_n);
}

static int wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name)) return 1;
    return argc <= 1;
}

int main(int argc, char **argv) {
    int full = argc > 1 && !strcmp(argv[1], "full");
    argc -= full, argv += full;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        if (!wanted(functions[i].name, argc, argv)) continue;
        check_specials(&functions[i]);
        check_function(&functions[i], full ? 32 : 20);
    }
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (wanted(activations[i].name, argc, argv))
            check_activation(&activations[i], full ? 24 : 19);
    if (failures) printf("%s: %d failures\n", STRING(FN_LEVEL), failures);
    return failures != 0;
}
