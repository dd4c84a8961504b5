/* csr.c - sparse rows are checked before anybody reads by their numbers. */
#include <stdbool.h>

#include "csr.h"

int fn_csr_check(int64_t n, int64_t columns, int64_t entries, const void *indptr,
                 const void *indices, fn_dtype dtype, int *ascending) {
    *ascending = 1;
    if (n < 0) return 0;
    int64_t start = fn_csr_index(indptr, dtype, 0);
    if (start < 0) return 0;
    for (int64_t r = 0; r < n; r++) {
        const int64_t end = fn_csr_index(indptr, dtype, r + 1);
        if (end < start || end > entries) return 0;
        int64_t last = -1, least = 0, most = -1;
        bool rising = true;
        for (int64_t i = start; i < end; i++) {
            const int64_t column = fn_csr_index(indices, dtype, i);
            rising &= column > last;
            least = column < least ? column : least;
            most = column > most ? column : most;
            last = column;
        }
        if (least < 0 || most >= columns) return 0;
        if (!rising) *ascending = 0;
        start = end;
    }
    return 1;
}
