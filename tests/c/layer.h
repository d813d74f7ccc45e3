/* What the programs of this folder share: a layer at some number of tokens, its tensors and its workspace, from nothing but the C ABI. */
#ifndef LAYER_H_
#define LAYER_H_

#include "moec_abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PARAMS = 64, MOST_AXES = 8 };

typedef struct {
    const moec_api *api;
    const moec_info *info;
    moec_handle *handle;
    moec_tensor tensors[MOST_PARAMS];
    const moec_tensor *params[MOST_PARAMS];
    int64_t shapes[MOST_PARAMS][MOST_AXES];
    size_t bytes[MOST_PARAMS];
    void *workspace, *prepared;
    size_t workspace_bytes, prepared_bytes;
} layer;

/* Memory of the device. */
typedef void *(*allocator)(size_t bytes);

static inline void *host_memory(size_t bytes) {
    size_t whole = (bytes + 255) / 256 * 256 + 256;
    void *memory = aligned_alloc(256, whole);
    if (!memory) abort();
    memset(memory, 0, whole);
    return memory;
}

static inline void stop(const char *what) {
    printf("stopped: %s\n", what);
    exit(1);
}

static inline const char *last_text(const moec_api *api) {
    static _Thread_local char text[512];
    api->last_error(text, sizeof text);
    return text;
}

static inline void must(const moec_api *api, moec_status status, const char *what) {
    if (status == MOEC_OK) return;
    printf("%s: %s: %s\n", what, api->status_string(status), last_text(api));
    exit(1);
}

/* Reads a shape: the formulas that the layers here have are T and numbers. */
static inline void set_shape(layer *l, uint32_t i, int64_t tokens) {
    const moec_param *param = &l->info->params[i];
    const char *formula = param->shape;
    size_t elements = 1;
    for (uint32_t axis = 0; axis < param->ndim; axis++) {
        char *end = NULL;
        int64_t extent = *formula == 'T' ? tokens : strtoll(formula, &end, 10);
        formula = end ? end : formula + 1;
        if (*formula && *formula != ',') stop(param->shape);
        formula += *formula == ',';
        l->shapes[i][axis] = extent;
        elements *= (size_t)extent;
    }
    if (*formula) stop(param->shape);
    l->bytes[i] = elements * param->dtype.bits / 8;
}

/* A layer without a handle: its tensors, whose memory is allocated in the order weights, prepared, inputs, outputs, workspace. */
static inline layer *layer_of(moec_get_api_fn get_api, moec_device device, int64_t tokens, int64_t sequence_tokens, allocator allocate) {
    layer *l = calloc(1, sizeof *l);
    if (!l || !(l->api = get_api(MOEC_ABI_VERSION))) stop("no table");
    l->info = l->api->info();
    if (l->info->num_params > MOST_PARAMS) stop("many tensors");
    uint32_t activations = l->info->num_inputs + l->info->num_outputs;
    for (uint32_t n = 0; n < l->info->num_params; n++) {
        /* Weights are the last of the params. */
        uint32_t i = (n + activations) % l->info->num_params;
        const moec_param *param = &l->info->params[i];
        if (n == l->info->num_weights) {
            must(l->api, l->api->prepared_size(NULL, &l->prepared_bytes, NULL), "prepared_size");
            if (l->prepared_bytes) l->prepared = allocate(l->prepared_bytes);
        }
        set_shape(l, i, tokens);
        moec_tensor tensor = {allocate(l->bytes[i]), device, (int32_t)param->ndim, param->dtype, l->shapes[i], NULL, 0};
        l->tensors[i] = tensor;
        l->params[i] = &l->tensors[i];
    }
    moec_dims dims = {sizeof dims, tokens, sequence_tokens};
    must(l->api, l->api->workspace_size(NULL, &dims, &l->workspace_bytes, NULL), "workspace_size");
    l->workspace = allocate(l->workspace_bytes);
    return l;
}

static inline void free_layer(layer *l) {
    for (uint32_t i = 0; i < l->info->num_params; i++) free(l->tensors[i].data);
    free(l->workspace);
    free(l->prepared);
    free(l);
}

static inline moec_run_args args_of(const layer *l, const moec_binding *binding, void *stream) {
    uint32_t weights = binding ? l->info->num_weights : 0;
    moec_run_args args = {sizeof args, l->params, l->info->num_params - weights, 0, binding, l->workspace, l->workspace_bytes, stream, 0};
    return args;
}

static inline moec_bind_args bind_args_of(const layer *l, void *stream) {
    uint32_t first = l->info->num_inputs + l->info->num_outputs;
    moec_bind_args args = {sizeof args, l->params + first, l->info->num_weights, 0, l->prepared, l->prepared_bytes, stream};
    return args;
}

static inline moec_options on_cpu(uint32_t threads) {
    moec_options options = {sizeof options, {MOEC_CPU, 0}, NULL, NULL, NULL, NULL, threads, 0};
    return options;
}

/* `<folder>/<layer>.in` has the inputs and then the weights, one after the other. */
static inline void read_params(layer *l, const char *folder) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.in", folder, l->info->layer);
    FILE *file = fopen(path, "rb");
    if (!file) stop(path);
    for (uint32_t i = 0; i < l->info->num_params; i++)
        if (l->info->params[i].role != MOEC_OUTPUT && fread(l->tensors[i].data, 1, l->bytes[i], file) != l->bytes[i]) stop("a short file");
    if (fgetc(file) != EOF) stop("a long file");
    fclose(file);
}

static inline void *output(const layer *l, size_t *bytes) {
    *bytes = l->bytes[l->info->num_inputs];
    return l->tensors[l->info->num_inputs].data;
}

static inline void write_output(const layer *l, const char *folder) {
    char path[1024];
    size_t bytes;
    void *data = output(l, &bytes);
    snprintf(path, sizeof path, "%s/%s.out", folder, l->info->layer);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file)) stop(path);
}

#endif
