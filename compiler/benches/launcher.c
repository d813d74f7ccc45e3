/* The time of `run` of a layer whose kernels do nothing, on a CPU or with a driver that does nothing: what the launcher costs. Nothing is
 * read at the addresses of the tensors. Arguments: `cpu` or `gpu`, threads, T. Prints the launches, and of a run the median and the 90th
 * percentile in microseconds. */
#define _POSIX_C_SOURCE 199309L
#include "moec_abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(LAYER)(uint32_t wanted);

enum { SAMPLES = 400, RUNS = 100, AXES = 8, PARAMS = 64 };

static int zero(void) { return 0; }
static int version(int *version) { return *version = 13000, 0; }
static int attribute(int *value, int which, int device) { return (void)device, *value = which == 75 ? 9 : 0, 0; }
static int handle_of(void **handle) { return *handle = (void *)1, 0; }
static void *driver(void *user, const char *symbol) {
    union { int (*zero)(void); int (*version)(int *); int (*attribute)(int *, int, int); int (*handle_of)(void **); void *any; } call = {zero};
    (void)user;
    if (!strcmp(symbol, "cuDriverGetVersion")) call.version = version;
    if (!strcmp(symbol, "cuDeviceGetAttribute")) call.attribute = attribute;
    if (!strcmp(symbol, "cuDevicePrimaryCtxRetain") || !strcmp(symbol, "cuLibraryLoadData") || !strcmp(symbol, "cuLibraryGetKernel") ||
        !strcmp(symbol, "cuKernelGetFunction"))
        call.handle_of = handle_of;
    return call.any;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compared(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static void must(const moec_api *api, moec_status status) {
    char text[512];
    if (status == MOEC_OK) return;
    api->last_error(text, sizeof text);
    printf("%s\n", text);
    exit(1);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    const moec_api *api = GET_API(LAYER)(MOEC_ABI_VERSION);
    const moec_info *info = api->info();
    int64_t tokens = atoll(arguments[3]), shapes[PARAMS][AXES];
    moec_options options = {sizeof options, {MOEC_CPU, 0}, NULL, NULL, NULL, NULL, (uint32_t)atoi(arguments[2]), 0};
    if (!strcmp(arguments[1], "gpu")) options.device.device_type = MOEC_CUDA_GPU, options.get_proc = driver;
    moec_handle *handle;
    must(api, api->create(&options, &handle));
    moec_tensor tensors[PARAMS];
    const moec_tensor *params[PARAMS];
    for (uint32_t i = 0; i < info->num_params; i++) {
        const char *shape = info->params[i].shape;
        for (uint32_t axis = 0; axis < info->params[i].ndim; axis++) {
            shapes[i][axis] = *shape == 'T' ? tokens : atoll(shape);
            shape += strcspn(shape, ",") + 1;
        }
        moec_tensor tensor = {(void *)((uintptr_t)(i + 1) << 40), options.device, (int32_t)info->params[i].ndim, info->params[i].dtype, shapes[i], NULL, 0};
        tensors[i] = tensor, params[i] = &tensors[i];
    }
    moec_dims dims = {sizeof dims, tokens, 0};
    moec_bind_args weights = {sizeof weights, params + info->num_inputs + info->num_outputs, info->num_weights, 0, (void *)((uintptr_t)100 << 40), SIZE_MAX, NULL};
    moec_binding *binding;
    must(api, api->bind(handle, &weights, &binding));
    moec_run_args run = {sizeof run, params, info->num_inputs + info->num_outputs, 0, binding, (void *)((uintptr_t)101 << 40), SIZE_MAX, NULL, 0};
    uint32_t launches;
    must(api, api->plan(api->target(handle), &dims, NULL, 0, &launches));
    static double times[SAMPLES];
    for (int i = -SAMPLES / 10; i < SAMPLES; i++) {
        double begin = now();
        for (int j = 0; j < RUNS; j++) must(api, api->run(handle, &run));
        if (i >= 0) times[i] = (now() - begin) / RUNS;
    }
    qsort(times, SAMPLES, sizeof *times, compared);
    printf("%u %.3f %.3f\n", launches, times[SAMPLES / 2], times[SAMPLES * 9 / 10]);
    api->unbind(binding);
    api->destroy(handle);
    return 0;
}
