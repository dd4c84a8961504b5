/* gemm.c - the only file that knows OpenBLAS. It always runs on the calling thread: fastnet does
 * the threading. */
#include "gemm.h"

#include <cblas.h>
#include <string.h>

void fn_sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float *a,
              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    scipy_cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                      transpose_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k,
                      1.0f, a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

/* Asked before it is set: setting takes a lock, which a child forked at that moment would wait for.
 */
void fn_blas_one_thread(void) {
    if (scipy_openblas_get_num_threads() != 1) scipy_openblas_set_num_threads(1);
}

const char *fn_blas_config(void) { return scipy_openblas_get_config(); }
const char *fn_blas_core(void) { return scipy_openblas_get_corename(); }

/* Which kernel multiplies a dense layer, (rows, k) @ (k, n), in training. Our register tiles read
 * packed weights and apply the optimizer without a gradient in memory; sgemm repacks both operands
 * on every call and needs a row-major copy of the weights. See docs/architecture.md for the
 * measurements behind the line. */
bool fn_choose_sgemm(fn_gemm wanted, int64_t rows, int64_t k, int64_t n) {
    if (wanted != FN_GEMM_AUTO) return wanted == FN_GEMM_SGEMM;
    (void)rows, (void)k, (void)n;
    return false;
}
