/* philox.h - counter-based random numbers (Philox 4x32-10; Salmon et al., SC 2011): the same bits
 * for any thread, tile or order of work, because a number depends on its key and its counter alone.
 */
#ifndef FN_PHILOX_H
#define FN_PHILOX_H

#include <stdint.h>

typedef struct {
    uint32_t v[4];
} fn_philox4;

static inline fn_philox4 fn_philox(uint64_t key, uint64_t stream, uint64_t counter) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = (uint32_t)stream,
             c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (fn_philox4){{c0, c1, c2, c3}};
}

#endif
