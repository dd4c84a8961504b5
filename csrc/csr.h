/* csr.h - sparse rows: the entries of row r are indptr[r] .. indptr[r + 1] of values and indices.
 */
#ifndef FN_CSR_H
#define FN_CSR_H

#include "fastnet.h"

/* A number of indptr or indices, which are FN_I32 or FN_I64. */
static inline int64_t fn_csr_index(const void *array, fn_dtype dtype, int64_t i) {
    return dtype == FN_I64 ? ((const int64_t *)array)[i] : ((const int32_t *)array)[i];
}

#endif
