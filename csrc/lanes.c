/* lanes.c - gradients of small shared weights: each lane, a fixed block of a minibatch's rows, has
 * sums of its own that one thread fills in order; then the lanes are added in a fixed tree. So no
 * thread waits for another, and the bits do not depend on who did what.
 */
#include "internal.h"

enum {
    LEAST = 4, /* ... unless all lanes would need more than MEMORY floats */
    MEMORY = 2 * 1024 * 1024
};

static bool trained(const fn_plan *plan, const fn_op *op) {
    bool any = false;
    for (int i = 0; i < op->n_params; i++) any |= plan->params[op->params[i]].trainable != 0;
    return any;
}

/* Ops that fill lanes, their places in a lane, the number of lanes, and the slices of an update. */
void fn_plan_lay_out_lanes(fn_plan *plan) {
    const int parts = plan->options.lanes,
              rows = (int)(((int64_t)plan->options.max_rows + parts - 1) / parts);
    plan->lane_stride = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        op->lane = 0;
        if (plan->options.mode != FN_TRAIN || !op->impl->gradient || !trained(plan, op)) continue;
        op->slices = 0;
        for (int j = 0; j < op->n_params; j++) {
            const fn_param *p = &plan->params[op->params[j]];
            op->lane += p->size;
            if (p->trainable) op->slices += (int)((p->size + FN_LANE_SLICE - 1) / FN_LANE_SLICE);
        }
        op->lane_offset = plan->lane_stride;
        plan->lane_stride += op->lane;
    }
    int lanes = FN_LANES_A_PART;
    while (lanes > LEAST && (size_t)lanes * plan->lane_stride > MEMORY) lanes /= 2;
    while (lanes > 1 && lanes / 2 >= rows) lanes /= 2;
    plan->lanes = parts * lanes;
}

/* The rows of a lane, of a minibatch of `rows`: parts of the batch (options.lanes) first, each of
 * them cut as it would be if it were the whole batch. */
void fn_lane_rows(const fn_plan *plan, int rows, int lane, int *r0, int *r1) {
    const int parts = plan->options.lanes, lanes = plan->lanes / parts;
    const int part = (rows + parts - 1) / parts, start = lane / lanes * part;
    const int low = start < rows ? start : rows, high = rows - low < part ? rows : low + part;
    const int block = (high - low + lanes - 1) / lanes, from = low + lane % lanes * block;
    *r0 = from < high ? from : high;
    *r1 = high - *r0 < block ? high : *r0 + block;
}

enum { BLOCK = 64 }; /* floats summed at a time: they stay in L1 */

/* sum = the lanes [lane, lane + size) from `at` on, in halves; lanes without rows hold nothing. */
static void add_up(const fn_call *call, const float *at, int lane, int size, int n, float *sum) {
    const size_t stride = call->plan->lane_stride;
    if (size == 1) {
        for (int i = 0; i < n; i++) sum[i] = at[(size_t)lane * stride + (size_t)i];
        return;
    }
    const int half = size / 2;
    int r0 = 0, r1 = 0;
    add_up(call, at, lane, half, n, sum);
    if (lane + half < call->plan->lanes)
        fn_lane_rows(call->plan, call->rows, lane + half, &r0, &r1);
    if (r0 == r1) return;
    float other[BLOCK];
    add_up(call, at, lane + half, half, n, other);
    for (int i = 0; i < n; i++) sum[i] += other[i];
}

void fn_sum_lanes(const fn_call *call, const float *first, int64_t n, float *sum) {
    int size = 1;
    while (size < call->plan->lanes) size *= 2;
    for (int64_t i = 0; i < n; i += BLOCK)
        add_up(call, first + i, 0, size, n - i < BLOCK ? (int)(n - i) : BLOCK, sum + i);
}

void fn_update_lanes(const fn_call *call, const fn_op *op, int slice) {
    _Alignas(64) float sum[FN_LANE_SLICE];
    const float *lane = fn_lane(call, op, 0);
    for (int i = 0; i < op->n_params; i++) {
        const fn_param *p = &call->plan->params[op->params[i]];
        const int slices = p->trainable ? (int)((p->size + FN_LANE_SLICE - 1) / FN_LANE_SLICE) : 0;
        if (slice >= slices) {
            slice -= slices;
            lane += p->size;
            continue;
        }
        const size_t at = (size_t)slice * FN_LANE_SLICE, left = p->size - at;
        const int64_t n = (int64_t)(left < FN_LANE_SLICE ? left : FN_LANE_SLICE);
        fn_sum_lanes(call, lane + at, n, sum);
        fn_sink(call, op, i, at, n, sum);
        return;
    }
}
