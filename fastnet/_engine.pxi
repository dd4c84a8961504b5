# What _core.pyx sees of csrc/fastnet.h, where each is described.

cdef extern from "fastnet.h" nogil:
    ctypedef enum fn_dtype: FN_F32, FN_F64, FN_I32, FN_I64, FN_U8, FN_I8, FN_BOOL
    ctypedef enum fn_status: FN_OK, FN_ENOMEM, FN_EINVAL, FN_EINPUT, FN_EDIVERGED, FN_STOPPED
    ctypedef enum fn_mode: FN_PREDICT, FN_EVALUATE, FN_TRAIN
    ctypedef enum fn_update: FN_UPDATE_FUSED, FN_UPDATE_FLAT, FN_UPDATE_NONE
    ctypedef enum fn_gemm: FN_GEMM_AUTO, FN_GEMM_TILES, FN_GEMM_SGEMM
    ctypedef enum fn_again: FN_AGAIN_AUTO, FN_AGAIN_NEVER, FN_AGAIN_ALWAYS
    enum: FN_MAX_RANK, FN_MAX_SOURCES, FN_MAX_OUTPUTS, FN_MAX_THREADS
    ctypedef struct fn_plan
    ctypedef struct fn_params
    ctypedef struct fn_work
    ctypedef struct fn_plan_options:
        fn_mode mode
        fn_update update
        fn_gemm gemm
        int max_rows, lanes
        fn_again again
    ctypedef struct fn_op_info:
        const char *name
        int layer, n_inputs, n_outputs, n_params
        const int *inputs
        const int *outputs
        const int *params
        double flops
    ctypedef struct fn_plan_info:
        size_t arena_bytes, param_count, param_bytes, thread_bytes
        double flops
        int n_ops, n_buffers, n_params, n_phases, n_metrics
        const char *simd
    ctypedef struct fn_source:
        const void *data
        fn_dtype dtype
        size_t row_bytes
        const void *indptr
        const void *indices
        fn_dtype index_dtype
    int fn_csr_check(int64_t n, int64_t columns, int64_t entries, const void *indptr, const void *indices,
                     fn_dtype dtype, int *ascending)
    ctypedef struct fn_optimizer:
        const char *name
        double momentum, beta_1, beta_2, rho, epsilon
        double weight_decay, l1, l2, clipvalue, global_clipnorm
    ctypedef struct fn_run_args:
        fn_source sources[32]
        int n_sources
        const int64_t *order
        int64_t n_rows, first
        int batch_size
        const double *rates
        const fn_optimizer *optimizer
        int64_t step
        uint64_t seed
        float *outputs[16]
        int threads, apply_only
    ctypedef struct fn_result:
        double loss, weight, last_loss
        int64_t steps, bad_row, bad_column
        int bad_source, threads
        double seconds

    fn_plan *fn_plan_new(const fn_plan_options *options)
    void fn_plan_free(fn_plan *plan)
    int fn_plan_buffer(fn_plan *plan, fn_dtype dtype, int rank, const int64_t *shape)
    int fn_plan_param(fn_plan *plan, int rank, const int64_t *shape, int decay, int trainable)
    int fn_plan_op(fn_plan *plan, const char *name, int layer)
    int fn_op_input(fn_plan *plan, int op, int buffer)
    int fn_op_output(fn_plan *plan, int op, int buffer)
    int fn_op_param(fn_plan *plan, int op, int param)
    int fn_op_number(fn_plan *plan, int op, const char *attribute, double value)
    int fn_op_string(fn_plan *plan, int op, const char *attribute, const char *value)
    fn_status fn_plan_finish(fn_plan *plan)
    const char *fn_plan_error(const fn_plan *plan)
    void fn_plan_describe(const fn_plan *plan, fn_plan_info *info)
    void fn_plan_op_info(const fn_plan *plan, int op, fn_op_info *info)
    int fn_plan_op_attribute(const fn_plan *plan, int op, int index, const char **name, double *value)
    void fn_plan_buffer_info(const fn_plan *plan, int buffer, fn_dtype *dtype, int *rank, int64_t *shape,
                             int *memory, size_t *offset, size_t *row_bytes)
    size_t fn_plan_schedule(const fn_plan *plan, char *text, size_t size)
    fn_params *fn_params_new(const fn_plan *plan)
    void fn_params_free(fn_params *params)
    int fn_params_match(const fn_params *params, const fn_plan *plan)
    int64_t fn_params_count(const fn_params *params, int param)
    fn_status fn_params_get(const fn_params *params, int param, int part, float *out)
    fn_status fn_params_set(fn_params *params, int param, int part, const float *values)
    fn_status fn_params_need_slots(fn_params *params, int n_slots, float fill)
    fn_status fn_params_need_gradient(fn_params *params)
    void fn_params_copy_weights(fn_params *to, const fn_params *source)
    int fn_params_nonfinite(const fn_params *params)
    size_t fn_params_bytes(const fn_params *params)
    fn_work *fn_work_new(const fn_plan *plan, int max_threads)
    void fn_work_free(fn_work *work)
    void *fn_work_buffer(fn_work *work, const fn_plan *plan, int buffer, int gradient)
    const double *fn_work_metric(const fn_work *work, const fn_plan *plan, int metric, int *n)
    const double *fn_work_loss(const fn_work *work, const fn_plan *plan, int index)
    void fn_work_reset_metrics(fn_work *work, const fn_plan *plan)
    fn_status fn_run(const fn_plan *plan, fn_params *params, fn_work *work, const fn_run_args *args,
                     fn_result *result)
    void c_shuffle "fn_shuffle"(uint64_t seed, uint64_t epoch, int64_t n, int64_t *order)
    const char *fn_table_name(const char *table, int i)
    int fn_optimizer_slots(const char *name)
    const char *fn_simd_level()
    const char *fn_simd_supported(int i)
    int fn_simd_choose(const char *level)
    const char *fn_blas_config()
    const char *fn_blas_core()
    void fn_blas_one_thread()
    void fn_set_threads(int n)
    int fn_get_threads()
    int fn_cpus_available(const char **why)
    void fn_fork_guard()
    int64_t fn_threads_seen()
    void fn_threads_seen_reset()
    int64_t fn_backoffs()
    double fn_fma_peak(double seconds)
    void fn_vmath(const char *function, int64_t n, const float *x, float *y)
    void fn_alloc_fail_after(int64_t n)
    int64_t fn_alloc_count()
