/* alloc.c - every allocation of the engine: zeroed, aligned to a cache line, and able to fail on
 * request. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static atomic_llong fail_after = -1;
static atomic_llong allocations;

void fn_alloc_fail_after(int64_t n) { atomic_store(&fail_after, n); }
int64_t fn_alloc_count(void) { return atomic_load(&allocations); }

void *fn_alloc(size_t bytes) {
    atomic_fetch_add(&allocations, 1);
    if (atomic_load(&fail_after) >= 0 && atomic_fetch_sub(&fail_after, 1) == 0) return NULL;
    if (bytes > SIZE_MAX - 255) return NULL;
    char *memory = calloc(1, (bytes + 63) / 64 * 64 + 192); /* pages come when they are touched */
    if (!memory) return NULL;
    char *aligned = memory + 64 + (64 - (uintptr_t)memory % 64) % 64;
    memcpy(aligned - sizeof memory, &memory, sizeof memory);
    return aligned;
}

void fn_free(void *memory) {
    if (!memory) return;
    char *start;
    memcpy(&start, (char *)memory - sizeof start, sizeof start);
    free(start);
}

/* Returns the array, or a larger copy of it that replaces it; NULL (the array untouched) if memory
 * ends. */
void *fn_grow(void *array, int *capacity, int count, size_t item) {
    if (count < *capacity) return array;
    const int wanted = *capacity ? 2 * *capacity : 8;
    void *larger = fn_alloc((size_t)wanted * item);
    if (!larger) return NULL;
    if (count) memcpy(larger, array, (size_t)count * item);
    fn_free(array);
    *capacity = wanted;
    return larger;
}
