/* XLA as its FFI shows it to a handler: a table of functions, and a call frame made by hand. Names are those of xla/ffi/api/c_api.h. */
#ifndef XLA_H_
#define XLA_H_

#include "layer.h"

typedef struct Extension {
    size_t struct_size;
    int type;
    struct Extension *next;
} Extension;

typedef struct { size_t struct_size; Extension *extension_start; int major_version, minor_version; } Api_Version;
typedef struct { size_t struct_size; Api_Version api_version; uint32_t traits; int64_t state_type_id; } Metadata;
typedef struct { Extension extension_base; Metadata *metadata; } Metadata_Extension;
typedef struct { int code; char text[512]; } Error;
typedef struct { size_t struct_size; Extension *extension_start; const char *message; int errc; } Error_Create_Args;
typedef struct { size_t struct_size; Extension *extension_start; Error *error; } Error_Destroy_Args;
typedef struct { size_t struct_size; Extension *extension_start; void *ctx, *stream; } Stream_Get_Args;
typedef struct { size_t struct_size; Extension *extension_start; void *ctx; int32_t device_ordinal; } DeviceOrdinal_Get_Args;
typedef struct { size_t struct_size; Extension *extension_start; int dtype; void *data; int64_t rank, *dims; } Buffer;
typedef struct { int dtype; void *value; } Scalar;
typedef struct { const char *ptr; size_t len; } ByteSpan;
typedef struct { size_t struct_size; Extension *extension_start; int64_t size; int *types; void **args; } Args;
typedef struct { size_t struct_size; Extension *extension_start; int64_t size; int *types; ByteSpan **names; void **attrs; } Attrs;

typedef struct {
    size_t struct_size;
    Extension *extension_start;
    Api_Version api_version;
    const void *internal_api;
    Error *(*Error_Create)(Error_Create_Args *);
    void *Error_GetMessage;
    void (*Error_Destroy)(Error_Destroy_Args *);
    void *Handler_Register;
    Error *(*Stream_Get)(Stream_Get_Args *);
    void *others[12];
    Error *(*DeviceOrdinal_Get)(DeviceOrdinal_Get_Args *);
} Api;

typedef struct {
    size_t struct_size;
    Extension *extension_start;
    const Api *api;
    void *ctx;
    int stage;
    Args args, rets;
    Attrs attrs;
    void *future;
} CallFrame;

enum { METADATA = 1, INSTANTIATE = 0, PREPARE = 1, INITIALIZE = 2, EXECUTE = 3, BUFFER = 1, SCALAR = 3, STRING = 4 };
enum { S32 = 4, S64 = 5, U8 = 6, F16 = 10, F32 = 11, F64 = 12, BF16 = 16, C64 = 15, U32 = 8 };

/* Errors that are not destroyed yet. */
static int live;
/* What the context of a GPU has. */
typedef struct { void *stream; int32_t ordinal; } context;

static inline Error *create_error(Error_Create_Args *args) {
    if (args->struct_size != 28) stop("Error_Create_Args of another size");
    Error *error = calloc(1, sizeof *error);
    if (!error) abort();
    live++;
    error->code = args->errc;
    snprintf(error->text, sizeof error->text, "%s", args->message);
    return error;
}

static inline void destroy_error(Error_Destroy_Args *args) {
    if (args->struct_size != 24) stop("Error_Destroy_Args of another size");
    live--;
    free(args->error);
}

static inline Error *stream_get(Stream_Get_Args *args) {
    if (args->struct_size != 32) stop("Stream_Get_Args of another size");
    Error_Create_Args none = {28, NULL, "there is no stream", 12};
    if (!args->ctx) return create_error(&none);
    args->stream = ((const context *)args->ctx)->stream;
    return NULL;
}

static inline Error *ordinal_get(DeviceOrdinal_Get_Args *args) {
    if (args->struct_size != 28) stop("DeviceOrdinal_Get_Args of another size");
    args->device_ordinal = ((const context *)args->ctx)->ordinal;
    return NULL;
}

static Api api_of_xla = {192, NULL, {24, NULL, 0, 3}, NULL, create_error, NULL, destroy_error, NULL, stream_get, {NULL}, ordinal_get};

/* A call of a layer: its frame and what that points to. */
typedef struct {
    CallFrame frame;
    Buffer args[MOST_PARAMS], rets[MOST_PARAMS];
    void *all_args[MOST_PARAMS], *all_rets[MOST_PARAMS], *all_attrs[1];
    int arg_types[MOST_PARAMS], ret_types[MOST_PARAMS], attr_types[1];
    int64_t workspace_bytes;
    ByteSpan name, *all_names[1];
    int64_t sequence_tokens;
    Scalar scalar;
} call;

static inline int type_of(moec_dtype dtype) {
    if (dtype.code == 0) return S32;
    if (dtype.code == 4) return BF16;
    return dtype.bits == 16 ? F16 : F32;
}

/* Without S; `set_sequence` gives it. The layer keeps the shapes. */
static inline void set_call(call *c, layer *l, int stage, void *ctx) {
    memset(c, 0, sizeof *c);
    c->workspace_bytes = (int64_t)l->workspace_bytes;
    int64_t args = 0, rets = 0;
    for (uint32_t i = 0; i < l->info->num_params; i++) {
        const moec_tensor *tensor = &l->tensors[i];
        Buffer buffer = {48, NULL, type_of(tensor->dtype), tensor->data, tensor->ndim, l->shapes[i]};
        if (l->info->params[i].role == MOEC_OUTPUT) c->rets[rets++] = buffer;
        else c->args[args++] = buffer;
    }
    Buffer workspace = {48, NULL, U8, l->workspace, 1, &c->workspace_bytes};
    c->rets[rets++] = workspace;
    for (int i = 0; i < MOST_PARAMS; i++) {
        c->all_args[i] = &c->args[i], c->all_rets[i] = &c->rets[i];
        c->arg_types[i] = c->ret_types[i] = BUFFER;
    }
    c->name.ptr = "sequence_tokens", c->name.len = strlen(c->name.ptr);
    c->all_names[0] = &c->name;
    c->scalar.dtype = S64, c->scalar.value = &c->sequence_tokens;
    c->all_attrs[0] = &c->scalar;
    c->attr_types[0] = SCALAR;
    CallFrame frame = {168, NULL, &api_of_xla, ctx, stage, {40, NULL, args, c->arg_types, c->all_args},
                       {40, NULL, rets, c->ret_types, c->all_rets}, {48, NULL, 0, c->attr_types, c->all_names, c->all_attrs}, NULL};
    c->frame = frame;
}

static inline void set_sequence(call *c, int64_t sequence_tokens) {
    c->sequence_tokens = sequence_tokens;
    c->frame.attrs.size = 1;
}

#endif
