/* Runs a layer out of a library that moec made, on the tensors of a published block: `main FOLDER`, which tensors.py has filled. */
#include "mixtral.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const moec_api *api;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    exit(1);
}

/* The status says what kind of error it is, `last_error` what to do. */
static void check(moec_status status) {
    char text[512];
    if (status == MOEC_OK) return;
    api->last_error(text, sizeof text);
    fail(api->status_string(status), text);
}

static void *allocate(size_t align, size_t bytes) {
    void *memory = aligned_alloc(align, (bytes / align + 1) * align);
    if (!memory) fail("aligned_alloc", "out of memory");
    return memory;
}

/* FOLDER/<name>.bin; its shape is "T,32" with T as the file's length says. */
static moec_tensor load(const char *folder, const moec_param *param, int64_t shape[]) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s.bin", folder, param->name);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail(path, strerror(errno));
    size_t bytes = (size_t)ftell(file);
    void *data = allocate(64, bytes);
    rewind(file);
    if (fread(data, 1, bytes, file) != bytes) fail(path, "cannot be read");
    fclose(file);
    int64_t rest = (int64_t)bytes / (param->dtype.bits / 8);
    const char *axis = param->shape;
    for (uint32_t i = 0; i < param->ndim; i++) {
        shape[i] = strtoll(axis, NULL, 10); /* of T: 0 */
        if (shape[i]) rest /= shape[i];
        axis += strcspn(axis, ",") + 1;
    }
    for (uint32_t i = 0; i < param->ndim; i++)
        if (!shape[i]) shape[i] = rest;
    moec_tensor tensor = {data, {MOEC_CPU, 0}, (int32_t)param->ndim, param->dtype, shape, NULL, 0};
    return tensor;
}

int main(int argc, char **argv) {
    if (argc != 2) fail("usage", "main FOLDER");
    if (!(api = mixtral_get_api(MOEC_ABI_VERSION))) fail("mixtral_get_api", "the library has another ABI");

    int64_t shapes[MIXTRAL_PARAMS][4];
    moec_tensor tensors[MIXTRAL_PARAMS];
    const moec_tensor *params[MIXTRAL_PARAMS];
    for (int i = 0; i < MIXTRAL_PARAMS; i++) {
        tensors[i] = load(argv[1], &api->info()->params[i], shapes[i]);
        params[i] = &tensors[i];
    }
    const float *expected = tensors[MIXTRAL_Y].data;
    int64_t tokens = shapes[MIXTRAL_Y][0], elements = tokens * shapes[MIXTRAL_Y][1];
    float *y = tensors[MIXTRAL_Y].data = allocate(64, (size_t)elements * sizeof *y);

    /* Once: the device, and the weights. */
    moec_options options = {.struct_size = sizeof options};
    moec_handle *handle;
    check(api->create(&options, &handle));
    moec_bind_args bound = {.struct_size = sizeof bound, .weights = &params[MIXTRAL_ROUTER], .num_weights = api->info()->num_weights};
    size_t align, workspace_bytes;
    check(api->prepared_size(api->target(handle), &bound.prepared_bytes, &align));
    bound.prepared = allocate(align, bound.prepared_bytes);
    moec_binding *binding;
    check(api->bind(handle, &bound, &binding));

    /* Once: memory for the largest batch. */
    moec_dims dims = {.struct_size = sizeof dims, .tokens = tokens};
    check(api->workspace_size(api->target(handle), &dims, &workspace_bytes, &align));
    void *workspace = allocate(align, workspace_bytes);

    /* Each step. */
    moec_run_args args = {.struct_size = sizeof args, .params = params, .num_params = MIXTRAL_ROUTER, .binding = binding,
                          .workspace = workspace, .workspace_bytes = workspace_bytes};
    check(api->run(handle, &args));

    float largest = 0;
    int64_t wrong = 0;
    for (int64_t i = 0; i < elements; i++) largest = fmaxf(largest, fabsf(expected[i]));
    for (int64_t i = 0; i < elements; i++) wrong += !(fabsf(y[i] - expected[i]) <= 2e-5f * largest);
    printf("%s on %s: T = %" PRId64 ", %" PRId64 " of %" PRId64 " outputs differ from the published block\n", api->info()->layer, api->target(handle),
           tokens, wrong, elements);

    args.workspace_bytes /= 2;
    char text[512];
    moec_status refused = api->run(handle, &args);
    api->last_error(text, sizeof text);
    printf("half of the workspace: %s\n", text);

    api->unbind(binding);
    api->destroy(handle);
    return wrong == 0 && refused == MOEC_E_WORKSPACE ? 0 : 1;
}
