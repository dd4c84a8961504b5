/* shuffle.c - the order of rows in an epoch: Fisher-Yates with counter-based numbers. */
#include "internal.h"
#include "kernels/philox.h"

enum { SHUFFLE_STREAM = 0x51ff1e };

void fn_shuffle(uint64_t seed, uint64_t epoch, int64_t n, int64_t *order) {
    fn_philox4 block = {{0, 0, 0, 0}};
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = n - 1, used = 0; i > 0; i--, used++) {
        if (used % 2 == 0)
            block =
                fn_philox(seed, (uint64_t)SHUFFLE_STREAM << 32 ^ epoch << 8, (uint64_t)used / 2);
        const uint64_t bits = (uint64_t)block.v[used % 2 * 2] << 32 | block.v[used % 2 * 2 + 1];
        const int64_t j = (int64_t)(((unsigned __int128)bits * (unsigned __int128)(i + 1)) >> 64);
        const int64_t other = order[j];
        order[j] = order[i];
        order[i] = other;
    }
}
