/* image.h - what ops on images share: a row of a buffer is one image, (h, w, c) with the channels
 * of a pixel side by side. A sequence (steps, c) is an image of one line, (c) one of one pixel.
 */
#ifndef FN_IMAGE_H
#define FN_IMAGE_H

#include "kernels/level.h"

typedef struct {
    int h, w, c;
} image;

static inline image image_of(const fn_buffer *b) {
    const int rank = b->rank;
    return (image){rank < 3 ? 1 : (int)b->shape[rank - 3], rank < 2 ? 1 : (int)b->shape[rank - 2],
                   rank < 1 ? 1 : (int)b->shape[rank - 1]};
}

static inline bool is_image(const fn_plan *plan, int buffer) {
    return fn_is_f32(plan, buffer) && plan->buffers[buffer].rank <= 3;
}

static inline int smaller(int a, int b) { return a < b ? a : b; }
static inline int larger(int a, int b) { return a > b ? a : b; }

/* Where the vector of `width` channels from k on begins: the last one overlaps the one before it
 * rather than reach beyond the pixel. */
static inline int channel_block(int k, int width, int c) { return smaller(k, c - width); }

#endif
