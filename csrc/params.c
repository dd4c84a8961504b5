/* params.c - weights, optimizer slots and gradients of a network: canonical outside, packed inside.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

/* Columns of the panel that holds `column`: 2 * lanes, or lanes for a last one that needs no more.
 */
int fn_panel_width(int64_t n, int64_t column, int lanes) {
    const int64_t start = column / (2 * lanes) * (2 * lanes);
    return n - start <= lanes ? lanes : 2 * lanes;
}

size_t fn_param_size(const fn_param *p, int lanes) {
    if (p->layout == FN_LAYOUT_PLAIN) return (size_t)p->count;
    const int64_t n = p->shape[p->rank - 1], last = (n - 1) / (2 * lanes) * (2 * lanes);
    return (size_t)((last + fn_panel_width(n, last, lanes)) * (p->count / n));
}

/* Another version of the weights, never used before by any params. */
void fn_params_touch(fn_params *params) {
    static atomic_llong versions;
    atomic_store(&params->version, atomic_fetch_add(&versions, 1) + 1);
}

fn_params *fn_params_new(const fn_plan *plan) {
    fn_params *p = plan->finished ? fn_alloc(sizeof *p) : NULL;
    if (!p) return NULL;
    fn_params_touch(p);
    p->n_params = plan->n_params;
    p->size = plan->param_size;
    p->lanes = plan->level->lanes;
    p->params = fn_alloc((size_t)plan->n_params * sizeof *p->params);
    p->block[0] = fn_alloc(plan->param_size * sizeof(float));
    if (plan->shared) fn_params_need_gradient(p);
    if (!p->params || !p->block[0] || (plan->shared && !p->block[3])) {
        fn_params_free(p);
        return NULL;
    }
    if (plan->n_params) memcpy(p->params, plan->params, (size_t)plan->n_params * sizeof *p->params);
    return p;
}

void fn_params_free(fn_params *params) {
    if (!params) return;
    for (int i = 0; i < 4; i++) fn_free(params->block[i]);
    fn_free(params->params);
    fn_free(params);
}

/* Params made for one plan serve every plan of the same network at the same level. */
int fn_params_match(const fn_params *params, const fn_plan *plan) {
    if (params->n_params != plan->n_params || params->size != plan->param_size ||
        params->lanes != plan->level->lanes)
        return 0;
    for (int i = 0; i < plan->n_params; i++) {
        const fn_param *a = &params->params[i], *b = &plan->params[i];
        if (a->offset != b->offset || a->count != b->count || a->layout != b->layout) return 0;
    }
    return 1;
}

int64_t fn_params_count(const fn_params *params, int param) {
    return param >= 0 && param < params->n_params ? params->params[param].count : -1;
}

/* Copy between canonical row-major values and the packed block; pack decides the direction. */
static void transfer(const fn_param *p, int lanes, float *packed, float *values, bool pack) {
    if (p->layout == FN_LAYOUT_PLAIN) {
        const size_t bytes = (size_t)p->count * sizeof(float);
        if (bytes) memcpy(pack ? packed : values, pack ? values : packed, bytes);
        return;
    }
    const int64_t n = p->shape[p->rank - 1], rows = p->count / n;
    for (int64_t column = 0; column < n; column += 2 * lanes) {
        const int width = fn_panel_width(n, column, lanes);
        const int64_t used = n - column < width ? n - column : width;
        for (int64_t k = 0; k < rows; k++) {
            float *panel = packed + column * rows + k * width, *row = values + k * n + column;
            memcpy(pack ? panel : row, pack ? row : panel, (size_t)used * sizeof(float));
        }
    }
}

fn_status fn_params_get(const fn_params *params, int param, int part, float *out) {
    if (param < 0 || param >= params->n_params || part < 0 || part > 3 || !params->block[part])
        return FN_EINVAL;
    const fn_param *p = &params->params[param];
    transfer(p, params->lanes, params->block[part] + p->offset, out, false);
    return FN_OK;
}

/* The first of parameters [low, high) that holds NaN or infinity, or -1. */
static int first_nonfinite(const fn_params *params, int low, int high) {
    for (int i = low; i < high; i++) {
        const float *w = params->block[0] + params->params[i].offset;
        const size_t size = params->params[i].size;
        for (size_t at = 0; at < size; at += 1024) { /* blocks: the loop inside vectorises */
            const size_t end = at + 1024 < size ? at + 1024 : size;
            int bad = 0;
            for (size_t j = at; j < end; j++) bad |= (w[j] - w[j] != 0.0f);
            if (bad) return i;
        }
    }
    return -1;
}

fn_status fn_params_set(fn_params *params, int param, int part, const float *values) {
    if (param < 0 || param >= params->n_params || part < 0 || part > 3 || !params->block[part])
        return FN_EINVAL;
    const fn_param *p = &params->params[param];
    transfer(p, params->lanes, params->block[part] + p->offset, (float *)values, true);
    if (part == 0) fn_params_touch(params);
    if (part == 0 && atomic_load(&params->risky)) fn_params_check(params);
    if (part == 0 && first_nonfinite(params, param, param + 1) >= 0)
        atomic_store(&params->risky, true);
    return FN_OK;
}

/* Fresh slots, every trained weight's set to `fill` (padding as well: it never reaches a result).
 */
fn_status fn_params_need_slots(fn_params *params, int n_slots, float fill) {
    if (n_slots < 0 || n_slots > 2) return FN_EINVAL;
    for (int s = 1; s <= n_slots; s++) {
        if (!params->block[s]) params->block[s] = fn_alloc(params->size * sizeof(float));
        if (!params->block[s]) return FN_ENOMEM;
    }
    for (int s = 1; s <= n_slots; s++)
        for (size_t i = 0; i < params->size; i++) params->block[s][i] = fill;
    return FN_OK;
}

fn_status fn_params_need_gradient(fn_params *params) {
    if (!params->block[3]) params->block[3] = fn_alloc(params->size * sizeof(float));
    return params->block[3] ? FN_OK : FN_ENOMEM;
}

void fn_params_copy_weights(fn_params *to, const fn_params *from) {
    if (from->size) memcpy(to->block[0], from->block[0], from->size * sizeof(float));
    atomic_store(&to->risky, atomic_load(&from->risky));
    fn_params_touch(to);
}

void fn_params_check(fn_params *params) {
    atomic_store(&params->risky, first_nonfinite(params, 0, params->n_params) >= 0);
}

int fn_params_nonfinite(const fn_params *params) {
    return atomic_load(&((fn_params *)params)->risky) ? first_nonfinite(params, 0, params->n_params)
                                                      : -1;
}

size_t fn_params_bytes(const fn_params *params) {
    size_t bytes = 0;
    for (int i = 0; i < 4; i++) bytes += params->block[i] ? params->size * sizeof(float) : 0;
    return bytes;
}
