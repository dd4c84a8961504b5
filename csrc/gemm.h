/* gemm.h - matrix products by OpenBLAS, on the calling thread. */
#ifndef FN_GEMM_H
#define FN_GEMM_H

#include "internal.h"

/* C (m, n) = op(A) (m, k) @ op(B) (k, n) + beta * C, all row-major. */
void fn_sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float *a,
              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
bool fn_choose_sgemm(fn_gemm wanted, int64_t rows, int64_t k, int64_t n);

#endif
