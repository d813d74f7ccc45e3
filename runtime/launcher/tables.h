/* What moec writes of a layer: constant data. A formula is the number of a value: 0 is T, 1 is S, those after it are made by the
 * layer's first operations, and then by those of a regime, in order. */

typedef enum { OP_CONST, OP_ADD, OP_MUL, OP_FLOOR, OP_CEIL, OP_HALF_EVEN, OP_MIN, OP_MAX, OP_ALIGN } moec_op_kind;

typedef struct {
    uint32_t kind, a, b; /* values; of OP_CONST `a` is a constant's number */
} moec_op;

typedef struct {
    uint32_t extents; /* the first of `ndim` numbers in `values` */
    uint32_t tokens_axis; /* the axis that is T; NONE */
} moec_shape;

typedef struct {
    const char *name;   /* of a kernel: its symbol */
    uint32_t threads, cluster, dynamic_shared_bytes;
} moec_kernel;

typedef enum { ARG_PARAM, ARG_PREPARED, ARG_WORKSPACE, ARG_I32, ARG_I64 } moec_arg_kind;

typedef struct {
    uint32_t kind; /* moec_arg_kind */
    uint32_t of;   /* a param's number, or the value that is the offset or the number */
    uint32_t map;  /* the tensor map of it that the kernel is given; NONE */
} moec_arg;

typedef struct { /* CUDA driver API: cuTensorMapEncodeTiled, dimensions from the outermost on */
    uint32_t dtype, element_bytes, swizzle;
    uint32_t tile[3], extents[3], strides[2];
} moec_map;

typedef struct {
    uint32_t kernel, grid, early, args, num_args;
    uint32_t counted; /* the launch's argument whose first i32, times the value `each`, is how many blocks have work; NONE: all may have */
    uint32_t each;
    uint32_t follows; /* blocks for one that is counted may begin when those of the step before, for it and those before it, have ended */
} moec_step;

typedef struct {
    const char *name;
    uint32_t offset, bytes; /* values */
} moec_observed;

typedef struct {
    uint32_t tokens_up_to; /* a constant's number */
    uint32_t ops, num_ops;
    uint32_t workspace; /* a value */
    uint32_t steps, num_steps, updates, num_updates;
    uint32_t observed, num_observed;
} moec_regime;

typedef enum { IMAGE_CUBIN, IMAGE_PTX } moec_image_kind;

typedef struct {
    const void *bytes;
    uint32_t kind;
} moec_image;

typedef void (*moec_function)(const uint64_t *args, uint64_t begin, uint64_t end);

typedef struct {
    const char *name, *manifest;
    const char *features; /* CPU: names, each followed by a space */
    uint32_t device_type;
    uint32_t arch, specific; /* GPU: 90, and `a` or `f` or 0 */
    uint32_t least_driver;   /* GPU: of PTX; 12000 is 12.0 */
    uint32_t kernels, num_kernels;
    uint32_t images, num_images;
    uint32_t regimes, num_regimes;
    uint32_t prepare, num_prepare; /* steps; their values are of all regimes */
    uint32_t prepared_bytes; /* a constant's number */
} moec_target;

typedef enum { CUT_TOKENS, CUT_SEQUENCES, CUT_NOWHERE } moec_cuts;

#define NONE UINT32_MAX
/* Bounds that moec keeps. */
#define MAX_VALUES 2048
#define MAX_ARGS 64
#define MAX_MAPS 8
#define MAX_PARAMS 64
#define WORKSPACE_ALIGN 256

typedef struct {
    const moec_info *info;
    const int64_t *constants;
    const uint32_t *values;
    const moec_op *ops;
    const moec_shape *shapes;
    const moec_kernel *kernels;
    const moec_function *functions; /* of the kernels of CPUs, by their number; null otherwise */
    const moec_arg *args;
    const moec_map *maps;
    const moec_step *steps;
    const moec_observed *observed;
    const moec_regime *regimes;
    const moec_image *images;
    const moec_target *targets;
    uint32_t num_ops; /* the first ones, of all regimes */
    uint32_t cuts;    /* moec_cuts: where a batch may be cut into parts */
    uint32_t cut_align; /* bytes: the caller's tensors are aligned to as many at every cut */
    int64_t workspace_limit;
} moec_layer;
