/* km.h - what the files of k-means share: the fit behind the opaque type, rows, tiles. */
#ifndef FN_KM_H
#define FN_KM_H

#include "csr.h"
#include "internal.h"
#include "kmeans.h"
#include "kmeans/kernels.h"
#include "parallel.h"

/* Four columns in float64, where it is not worth a kernel of each level. */
typedef double vd __attribute__((vector_size(32)));
typedef double vd_loose __attribute__((vector_size(32), aligned(8), may_alias));

static inline double fn_km_sum4(vd x) { return (x[0] + x[2]) + (x[1] + x[3]); }

/* How scores of a block are found: see assign.c. */
typedef enum { FN_KM_MODE_NARROW, FN_KM_MODE_DENSE, FN_KM_MODE_PROJECTED } fn_km_mode;

/* What a fit is made for: iterations; labels of one assignment; and sums; rows alone. */
typedef enum { FN_KM_ITERATE, FN_KM_LABEL, FN_KM_SUM, FN_KM_READ } fn_km_purpose;

/* |x|^2 from which float32 might overflow: such rows are decided in float64. */
static const float FN_KM_LARGE = 1e30f;

/* Rows in float64 for decisions, in coordinates of the caller. */
typedef struct {
    const fn_km_data *data;
    double *scales; /* cosine: 1 / |x| a row; else NULL */
} fn_km_rows;

typedef struct {
    int32_t row, old; /* within the chunk; label before, or -1 */
} fn_km_move;

struct fn_km {
    fn_km_data data;
    fn_km_rows rows;
    fn_km_algorithm algorithm;
    fn_km_purpose purpose;
    int64_t n, d, k;
    int threads, most_threads; /* asked for; what there is memory for */
    double *mean, *shift;
    double
        *origin; /* (d): what is taken off a row in sums: the shift, or 0 where that is not far */
    atomic_bool not_finite;      /* decide() met a row with NaN or infinity */
    double total;                /* sum of w |x - shift|^2 */
    double variance;             /* of a column, weighted, on average */
    int64_t bad_row, bad_column; /* a value that is NaN or infinite, or -1 */
    double *centers, *previous;  /* (k, d); previous and the sums: to iterate */
    uint8_t *fixed;
    double *sums, *sums_low;       /* (k, d) of w (x - origin), unevaluated sum of two: no drift */
    double *weights, *weights_low; /* (k), likewise */
    int64_t *members;              /* (k): points of positive weight */
    double *moved;   /* (groups, k, d + 2): columns, weight and members moved this iteration */
    bool no_sums;    /* labels alone are wanted */
    bool centered;   /* origin is the shift */
    bool by_cluster; /* one group; a task has some clusters: see sums.c */
    int32_t *sorted, *begins; /* (2 chunk_rows), (k + 1): moved rows by cluster */
    int sum_parts;            /* runs of clusters of about as many rows */
    double *terms; /* (k): what clusters add to the inertia, then how far centres moved */
    int32_t *labels;
    bool converged; /* the last iteration moved nothing: labels belong to the centres, unless ... */
    bool relocated; /* ... empty clusters have got new ones since */

    /* where the current iteration is */
    int64_t chunk_rows, cursor; /* cursor: first row not assigned yet */
    int tile_rows, groups;
    fn_km_move *moves; /* (chunk_rows): of each tile, from its first row on */
    int32_t *n_moves;  /* (tiles of a chunk) */
    int64_t *tile_computed, *tile_stays;
    int64_t stays;   /* in place: points that would be skipped next time, about */
    double distance; /* of a point to its centre, root mean square of the last iteration */
    bool first;      /* no labels yet */
    bool calm;       /* few points moved last time, so most will stay */
    double *tile_inertia;
    bool measuring;    /* one assignment: its inertia goes to the record */
    double *distances; /* measuring: (n) squared to the own centre, or NULL */
    float *gaps;       /* (n): how far the second score lies above the first, at least; or NULL */
    fn_km_record record;

    /* what lets work be skipped */
    fn_km_mode mode;
    const fn_km_kernels *kernel;
    bool bounds;            /* points may be skipped by drift; whether that pays is measured: */
    bool keep;              /* bounds are kept in this iteration, and */
    bool known;             /* were in the last one */
    int resting, patience;  /* iterations without bounds: left now; next time */
    bool exact_only;        /* centres too large for float32 */
    bool sparse;            /* dense mode: CSR rows of few entries, see sparse.c */
    double *center_squares; /* (k): |c|^2; sparse */
    bool in_place;          /* dense mode: rows are read where they lie, see assign.c */
    bool begin_in_place;    /* projected: in the first iteration; dense: where no bounds are kept */
    float *panels;          /* in place: `rounded` as kernel->products reads it, and */
    float *place_half, *place_error, *place_slack; /* (k): as scan has them, for such products */
    int64_t ld;                         /* floats from row to row of rounded rows and centres */
    float *shift32, *rounded, *lengths; /* (d); (k, ld) centres less the shift; (k) */
    fn_km_scan scan;
    float *upper, *lower; /* (n): distance to the own centre, to every other */
    int32_t *rival;       /* (n): a centre that `lower` leaves out, or the own one */
    float *extra;         /* (n): true less projected score of the own centre, at most, and ... */
    float *rival_extra;   /* (n): of the rival, at least; both before left_drift: see assign.c */
    float *left_drift;    /* (k): how far the centre has moved outside of the projection so far */
    float *rival_lower;   /* (n): distance to the rival; both NULL unless projected */
    float *drift, *drift_others, *apart; /* (k) */

    /* families of centres that lie together: see families.c */
    int families;         /* 0: none */
    int64_t family_slots; /* places in one: whole panels */
    bool ordered;         /* centres have their places: each point has a bound for each family */
    bool clearing;        /* they are new: nothing is known of any yet */
    int32_t *slot_of;     /* (k): the place of a centre among `packed`, and */
    int32_t *center_at;   /* (k): the centre at a place */
    float *slot_half;     /* (k): `half` by place */
    float *family_drift;  /* (families): how far the farthest-moving centres have gone so far */
    float *family_lower;  /* (n, families): distance to all of it but the own centre and the rival,
                             plus the drift until then */
    float error_root, half_error, dot_error, square_error;
    int p;
    float *basis; /* (d, p) */
    double basis_error;
    float *basis_panels; /* as kernel->products reads it */
    double
        *basis_shift; /* (p): where rows are projected in place, what the shift adds; else NULL */
    float raw_length; /* |shift|, by which a row may be longer than it is centred; else 0 */
    float *projected; /* (n, projected_ld): p coordinates, what they leave out, the error
                      term, |x|^2 */
    int64_t projected_ld;
    char *spaces; /* per thread: see assign.c */
    size_t space_bytes;

    fn_km_go_on go_on; /* see fn_km_watch */
    void *watched;

    double *scratch; /* per thread: a row */
    size_t scratch_stride;
    size_t bytes;
};

/* One thread's memory for a tile. */
typedef struct {
    float *block, *rows, *products;
    float best[FN_KM_MOST_BLOCK], second[FN_KM_MOST_BLOCK], limit[FN_KM_MOST_BLOCK];
    float squares[FN_KM_MOST_BLOCK], rest[FN_KM_MOST_BLOCK];
    bool contested[FN_KM_MOST_BLOCK];
    float own[FN_KM_MOST_BLOCK]; /* distance to the own centre, at most */
    int32_t index[FN_KM_MOST_BLOCK];
    int begin[FN_KM_MOST_BLOCK], end[FN_KM_MOST_BLOCK]; /* of a point's candidates in `found` */
    fn_km_candidate *found;
    int32_t *list, *evaluated, *columns;
    float *scores;
    struct fn_km_visitor *visitors; /* points on their way through families, their queues there, */
    uint8_t *queues;
    int *queued;
    int32_t *near;
    int32_t *older;          /* the chains of their candidates in `found`, */
    fn_km_candidate *picked; /* and those of one of them */
    double *row;
} fn_km_space;

enum {
    FN_KM_MOST_TRIALS = 64,
    FN_KM_MOST_FOUND = 8192,
    FN_KM_PAD = 32,
    FN_KM_MOST_ROWS = 8
}; /* candidates of a block; floats past an end; rows of a register tile */

void *fn_km_alloc(fn_km *km, size_t bytes);
void fn_km_prefetch_row(const fn_km_data *data, int64_t row);
int fn_km_threads(const fn_km *km, double ns, int phases);

/* Entries of CSR: where those of a row begin; returns where they end. */
static inline int64_t fn_km_entries(const fn_km_data *data, int64_t row, int64_t *begin) {
    if (data->picked) row = data->picked[row];
    *begin = fn_csr_index(data->indptr, data->index_dtype, row);
    return fn_csr_index(data->indptr, data->index_dtype, row + 1);
}

static inline double fn_km_value_at(const fn_km_data *data, int64_t i) {
    return data->dtype == FN_F64 ? ((const double *)data->values)[i]
                                 : (double)((const float *)data->values)[i];
}

/* sparse.c */
bool fn_km_is_sparse(const fn_km_data *data);
double fn_km_sparse_squares(const fn_km_data *data, int64_t row);
double fn_km_sparse_survey(const fn_km *km, int64_t row, double weight, double *sum);
double fn_km_sparse_distance(const fn_km *km, int64_t row, int64_t j, double *room);
float fn_km_sparse_gap(const fn_km *km, int64_t row, const float *other, double squares);
double fn_km_sparse_products(const fn_km *km, fn_km_space *s, int64_t row, float *products,
                             int64_t *count);
void fn_km_sparse_center(fn_km *km, int64_t j);
int fn_km_sparse_tasks(void);
void fn_km_sparse_sums(fn_km *km, int64_t first, int64_t tiles, int task);

/* rows.c */
double fn_km_weight(const fn_km_data *data, int64_t row);
void fn_km_row(const fn_km_rows *rows, int64_t row, double *out);
const void *fn_km_peek(const fn_km_rows *rows, int64_t index, int64_t c0, double *row, bool *wide);
double fn_km_distance(const double *row, const double *center, int64_t d);
fn_status fn_km_rows_begin(fn_km_rows *rows, const fn_km_data *data);
void fn_km_rows_end(fn_km_rows *rows);
void fn_km_rows_scale(const fn_km_rows *rows, int64_t count, double *row);
fn_status fn_km_center(fn_km *km);
fn_status fn_km_survey(fn_km *km);
size_t fn_km_survey_bytes(const fn_km *km);

void fn_km_load(const fn_km *km, int64_t first, const int32_t *list, int count, float *out,
                int64_t ld, double *row);

/* prepare.c, project.c, assign.c */
void fn_km_errors(fn_km *km);
void fn_km_prepare(fn_km *km);
void fn_km_project_centers(const fn_km *km, const float *rounded, const float *lengths,
                           int64_t count, float *coords, float *room);
void fn_km_to_panel(const fn_km *km, int64_t k, int64_t j, const float *values, int64_t q,
                    float *panels);
double fn_km_part_error(int64_t d);
size_t fn_km_prepare_bytes(const fn_km *km);
bool fn_km_find_basis(fn_km *km, int p, double most_outside);
bool fn_km_pack_basis(fn_km *km, bool in_place);
float fn_km_left_out(const fn_km *km, const float *inside, double squares, double length,
                     double more);
float fn_km_point_error(const fn_km *km, float squares);
void fn_km_project_rows(fn_km *km, int64_t first, int count, const float *rows,
                        const double *squares, float *room);
void fn_km_project_in_place(fn_km *km, int64_t first, int count, const double *squares,
                            float *room);
bool fn_km_now_in_place(const fn_km *km);
size_t fn_km_space_bytes(const fn_km *km);
fn_km_space *fn_km_space_of(fn_km *km, int thread);
void fn_km_project_points(const fn_km *km, const float *rows, int64_t ld, int64_t count, float *out,
                          int64_t out_ld, float *room);
void fn_km_assign_tile(fn_km *km, int tile, int thread);

/* families.c */
enum { FN_KM_VISITORS = 96 };
size_t fn_km_visitor_bytes(void);
void fn_km_count_families(fn_km *km, size_t max_bytes);
bool fn_km_new_families(fn_km *km);
void fn_km_start_families(fn_km *km);
void fn_km_move_families(fn_km *km);

/* fit.c: fits that do one assignment (`sums`: and sum it), or none. */
fn_km *fn_km_new_once(const fn_km_data *data, int64_t k, bool sums, int threads);
bool fn_km_projects_once(int64_t k, int64_t rows);
fn_km *fn_km_new_rows(const fn_km_data *data, int64_t k, int threads);
void fn_km_assign_all(fn_km *km);
double fn_km_measure_rows(fn_km *km, int64_t first, int64_t count, double *row);
double fn_km_measure(fn_km *km);

/* sums.c */
void fn_km_sum_tiles(fn_km *km, int task, int thread);
double fn_km_inertia_of_sums(const fn_km *km);
int fn_km_sum_tasks(fn_km *km);
void fn_km_merge(fn_km *km);
typedef void (*fn_km_cluster_run)(fn_km *km, int64_t j, int thread, const void *more);
void fn_km_each_cluster(fn_km *km, double ns, fn_km_cluster_run run, const void *more);
size_t fn_km_moved_count(const fn_km *km);
fn_status fn_km_update(fn_km *km);

#endif
