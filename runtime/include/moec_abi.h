/* The C ABI of libraries that `moec link` makes: one function a layer, <layer>_get_api, which gives this table.
 *
 * C11 or C++11. It needs no other header: no CUDA, no DLPack, though moec_tensor is DLPack's DLTensor to the byte.
 *
 * Contract
 *   memory      A library allocates host memory in `create` and `bind` alone. Device memory is the caller's, all of it:
 *               tensors, workspace, prepared memory. It must stay until what was enqueued on it is done.
 *   run         (and update) allocates nothing, takes no lock, waits for nothing, calls nothing on a GPU but launches on the stream that it
 *               is given, in the caller's current context. It may be captured into a CUDA graph. On a CPU it returns when the
 *               result is there.
 *   handles     and bindings do not change after they are made: any number of threads may use one at the same time, each run
 *               with its own workspace and outputs.
 *   workspace   is a pure function of the dims and does not shrink when T grows. Its content is undefined before and after a
 *               run, but for what `observed` names. A run that is given less does its batch in parts, one after another, where
 *               no token, or no sequence, depends on others; of such a run nothing is observed.
 *   T = 0       launches nothing and is MOEC_OK.
 *   fork        ends the threads of a handle in the child, which makes its own handle and leaves the parent's alone.
 *   errors      are status codes; `last_error` has a text of the same thread. Nothing prints, exits or throws.
 *   versions    Structs that begin with their size grow at the end only. What a caller does not know of is 0, the default. The others,
 *               moec_device, moec_dtype, moec_tensor and moec_param, stay as they are.
 */
#ifndef MOEC_ABI_H_
#define MOEC_ABI_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOEC_ABI_MAJOR 1u
#define MOEC_ABI_MINOR 0u
#define MOEC_ABI_VERSION ((MOEC_ABI_MAJOR << 16) | MOEC_ABI_MINOR)

/* 0, one of MOEC_E_*, or MOEC_CUDA(an error of the driver). */
typedef int32_t moec_status;
#define MOEC_OK 0
#define MOEC_E_ABI 1         /* no struct_size, or flags that are not known         */
#define MOEC_E_ARG 2         /* null, a wrong count, another library's handle       */
#define MOEC_E_SHAPE 3       /* a tensor of another shape, T beyond the most tokens */
#define MOEC_E_DTYPE 4       /* a tensor of another element type                    */
#define MOEC_E_LAYOUT 5      /* strides, alignment                                  */
#define MOEC_E_WORKSPACE 6   /* null, misaligned, too short for the smallest part   */
#define MOEC_E_NO_DRIVER 7   /* no CUDA driver, or one that is too old              */
#define MOEC_E_NO_IMAGE 8    /* the library has no code for this device             */
#define MOEC_E_DEVICE 9      /* a tensor on another device                          */
#define MOEC_E_NOMEM 10      /* no host memory, no threads                          */
#define MOEC_E_CAPTURE 11    /* setup while a stream is being captured              */
#define MOEC_CUDA(result) ((moec_status)(0x10000 | (int)(result)))

/* DLPack's DLDeviceType. */
#define MOEC_CPU 1
#define MOEC_CUDA_GPU 2

typedef struct { /* DLDevice */
    int32_t device_type, device_id;
} moec_device;

typedef struct { /* DLDataType: code 0 signed integer, 2 float, 4 bfloat */
    uint8_t code, bits;
    uint16_t lanes;
} moec_dtype;

typedef struct { /* DLTensor: strides in elements, null: row-major without gaps */
    void *data;
    moec_device device;
    int32_t ndim;
    moec_dtype dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} moec_tensor;

#define MOEC_INPUT 0u
#define MOEC_OUTPUT 1u
#define MOEC_WEIGHT 2u
typedef struct {
    const char *name;
    const char *shape; /* a formula of T and S for each axis: "T,4096" */
    moec_dtype dtype;
    uint32_t role;
    uint32_t ndim;
    uint32_t align; /* bytes */
    uint32_t reserved;
} moec_param;

typedef struct {
    size_t struct_size;
    uint32_t abi_version;
    uint32_t num_params;
    const char *layer;       /* the name in the spec                                          */
    const char *compiler;    /* "moec 0.1.0"                                                  */
    const char *spec_sha256; /* 64 hexadecimal digits                                         */
    const moec_param *params; /* inputs, outputs, weights: the order of moec_run_args.params  */
    uint32_t num_inputs, num_outputs, num_weights, num_targets;
    const char *const *targets; /* "sm_90a", "x86-64-v4"                                      */
    int64_t max_tokens;
} moec_info;

/* The dimensions that are known only at launch. */
typedef struct {
    size_t struct_size;
    int64_t tokens;          /* T                                                           */
    int64_t sequence_tokens; /* S, which divides T; 0: the batch is one sequence, S = T     */
} moec_dims;

typedef struct { /* one launch of a plan */
    size_t struct_size;
    const char *kernel; /* its symbol */
    uint32_t grid[3], block[3], cluster[3];
    uint32_t dynamic_shared_bytes;
    uint32_t flags; /* MOEC_LAUNCH_EARLY */
} moec_launch;
#define MOEC_LAUNCH_EARLY 1u /* programmatic dependent launch */

/* Calls body(arg, begin, end) with ranges that cover 0 to count, on any threads, and returns when all are done. A run calls it once, or of a
 * batch in parts once for each; count is at most `threads`. A call of body works while there is something to do that no other has begun,
 * and waits for no call that has not come: one call after another will do, and so will one for all numbers. */
typedef void (*moec_body)(void *arg, uint64_t begin, uint64_t end);
typedef void (*moec_parallel_for)(void *user, uint64_t count, moec_body body, void *arg);

typedef struct {
    size_t struct_size;
    moec_device device; /* type 0: the CPU, or where the library has no code for it GPU 0 */
    /* GPU: where the driver's functions are; null: dlopen("libcuda.so.1"). */
    void *(*get_proc)(void *user, const char *symbol);
    void *get_proc_user;
    /* CPU: the caller's threads; null: the library's own. */
    moec_parallel_for parallel_for;
    void *parallel_for_user;
    uint32_t threads; /* CPU: how many, the caller's own included, of parallel_for too; 0: the CPUs that the process may use */
    uint32_t flags;   /* 0 */
} moec_options;

typedef struct moec_handle moec_handle;
typedef struct moec_binding moec_binding;

typedef struct {
    size_t struct_size;
    /* In the order of moec_info.params. Those that no launch of a run is given (moec_api.manifest) may go once this returned on a CPU. */
    const moec_tensor *const *weights;
    uint32_t num_weights;
    uint32_t flags;       /* 0, MOEC_BIND_PREPARED */
    void *prepared;       /* prepared_size bytes; null where that is 0 */
    size_t prepared_bytes;
    void *stream; /* CUstream on which prepared memory is written, before any run on another stream */
} moec_bind_args;
#define MOEC_BIND_PREPARED 1u /* prepared has what an earlier bind of these weights for this target wrote: nothing is launched */

typedef struct {
    size_t struct_size;
    const moec_tensor *const *params; /* inputs, outputs; then weights where there is no binding */
    uint32_t num_params;
    uint32_t flags; /* 0 */
    const moec_binding *binding;
    void *workspace;
    size_t workspace_bytes;
    void *stream;            /* CUstream; null: the default stream. Nothing on a CPU. */
    int64_t sequence_tokens; /* S; 0: S = T */
} moec_run_args;

typedef struct {
    size_t struct_size;
    uint32_t abi_version, reserved;

    /* Need no device. `target`: a name of moec_info.targets, or null where it says so. */
    const moec_info *(*info)(void);
    const char *(*manifest)(const char *target); /* JSON, as in the package; null: there is no such target */
    const char *(*status_string)(moec_status);
    size_t (*last_error)(char *text, size_t capacity); /* its length; cut to capacity, with a NUL */
    /* target null: the most of all targets. */
    moec_status (*workspace_size)(const char *target, const moec_dims *, size_t *bytes, size_t *align);
    moec_status (*prepared_size)(const char *target, size_t *bytes, size_t *align);
    /* The launches of a run: the first `capacity` of them, and their number. launches[0].struct_size is the caller's size of each.
     * target null: the first target. */
    moec_status (*plan)(const char *target, const moec_dims *, moec_launch *launches, uint32_t capacity, uint32_t *count);
    /* Where a run leaves what it observes ("route.experts", "stats.load", ..: the manifest says which), in the workspace. */
    moec_status (*observed)(const char *target, const moec_dims *, const char *name, size_t *offset, size_t *bytes);

    /* Setup: allocate host memory, load code, start threads. Not while a stream is being captured. */
    moec_status (*create)(const moec_options *, moec_handle **);
    void (*destroy)(moec_handle *); /* after its bindings, and after its runs are done */
    const char *(*target)(const moec_handle *);
    moec_status (*bind)(const moec_handle *, const moec_bind_args *, moec_binding **); /* in the caller's current context */
    void (*unbind)(moec_binding *);

    /* Of each step. */
    moec_status (*check)(const moec_handle *, const moec_run_args *); /* all that `run` checks; launches nothing */
    moec_status (*run)(const moec_handle *, const moec_run_args *);
    /* What training changes in the weights after a run on this memory, such as a correction bias: where the layer has it. */
    moec_status (*update)(const moec_handle *, const moec_run_args *);
} moec_api;

/* Null: the library has another major version than wanted, or an older minor one. */
typedef const moec_api *(*moec_get_api_fn)(uint32_t wanted_abi_version);

#ifdef __cplusplus
}
#endif
#endif
