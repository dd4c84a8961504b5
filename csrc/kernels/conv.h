/* conv.h - convolutions of one picture: forward, back to the source, and to the weights.
 *
 * result (oh, ow, oc)[i, j, o] = bias[o] + sum over taps of source[i * sh + a * dh - top,
 * j * sw + b * dw - left, k] * weights (kh, kw, c / groups, oc)[a, b, k, o], all NHWC, zero
 * outside. How many taps hang over at the bottom and the right follows from the result's size.
 */
#ifndef FN_CONV_H
#define FN_CONV_H

#include "kernels/level.h"

typedef struct {
    int h, w, c, oh, ow, oc;
    int kh, kw, sh, sw, dh, dw, top, left, groups;
} conv_shape;

/* The attributes of conv2d and conv2d_transpose. */
enum {
    CONV_STRIDE_H,
    CONV_STRIDE_W,
    CONV_DILATION_H,
    CONV_DILATION_W,
    CONV_TOP,
    CONV_LEFT,
    CONV_GROUPS,
    CONV_ATTRIBUTES
};
extern const fn_attribute FN_LEVELED(conv_attributes)[CONV_ATTRIBUTES];

/* The convolution between two buffers with a kernel (kh, kw, c / groups, oc). Rows of two axes
 * (steps, c) with a kernel (k, c / groups, oc) are pictures of one row. */
conv_shape FN_LEVELED(conv_shape)(const fn_plan *plan, const fn_op *op, int source, int result);
/* NULL, or what does not fit: attributes, sizes, or all of it. Asked before a shape is used. */
const char *FN_LEVELED(conv_numbers)(const fn_op *op);
const char *FN_LEVELED(conv_size)(const conv_shape *s);
const char *FN_LEVELED(conv_check)(const fn_plan *plan, const fn_op *op, int source, int result);
/* Those weights of this step: each thread turns them itself, once. */
const float *FN_LEVELED(conv_turned_now)(const fn_call *call, const fn_op *op, fn_tile tile,
                                         const conv_shape *s);

/* Floats of scratch that the functions below need: forward alone, or all. */
size_t FN_LEVELED(conv_scratch)(const conv_shape *s, bool train);

/* weights: panels of oc. bias: NULL, or padded to whole panels. */
void FN_LEVELED(conv_forward)(const conv_shape *s, const float *x, const float *weights,
                              const float *bias, float *y, float *scratch);

/* The way back needs weights with the taps turned round and panels of c. */
size_t FN_LEVELED(conv_turned)(const conv_shape *s); /* floats */
void FN_LEVELED(conv_turn)(const conv_shape *s, const float *weights, float *turned);

/* dx = bias + what every dy sends back through the taps; all of dx is written. */
void FN_LEVELED(conv_backward)(const conv_shape *s, const float *dy, const float *turned,
                               const float *bias, float *dx, float *scratch);

/* g (panels of oc) += the gradient of the weights; = if first. */
void FN_LEVELED(conv_weights)(const conv_shape *s, bool first, const float *x, const float *dy,
                              float *g, float *scratch);
/* The way back of pictures whose dy is mostly zeros (conv_sparse.c), for shapes that fit: the same
 * sums, without what is zero. Weights lie by channel there: conv_spread floats, 0 if the shape does
 * not fit. */
size_t FN_LEVELED(conv_spread)(const conv_shape *s);
size_t FN_LEVELED(conv_sparse_scratch)(const conv_shape *s); /* conv_spread floats among them */
bool FN_LEVELED(conv_mostly_zero)(const conv_shape *s, const float *dy);
void FN_LEVELED(conv_spread_weights)(const conv_shape *s, const float *panels, float *spread);
void FN_LEVELED(conv_gather_weights)(const conv_shape *s, const float *spread, float *panels);
void FN_LEVELED(conv_backward_sparse)(const conv_shape *s, const float *dy, const float *spread,
                                      float *dx, float *scratch);
/* sums, by channel, += the gradient of the weights. */
void FN_LEVELED(conv_weights_sparse)(const conv_shape *s, const float *x, const float *dy,
                                     float *sums, float *scratch);

/* g (channels, whole vectors) += the sum over pixels of dy (pixels, channels); = if first. */
void FN_LEVELED(conv_bias)(int64_t pixels, int channels, bool first, const float *dy, float *g);

#endif
