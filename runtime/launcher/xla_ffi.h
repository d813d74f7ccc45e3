/* The layer as a handler of XLA's typed FFI, which JAX calls: arguments are the inputs and then the weights, in the order of moec_info.params;
 * results are the outputs, and behind them a workspace of u8, which may lie anywhere. Attribute `sequence_tokens`, an integer: S. On a GPU
 * it launches on XLA's stream and allocates no device memory, so XLA may record it in a command buffer; its handle is made when XLA
 * initialises the call, which is before that. Layout of XLA's structs: xla/ffi/api/c_api.h, of which versions 0.1 to 0.3 have the same. */

enum { XLA_MAJOR = 0, XLA_LEAST_MINOR = 1, XLA_MINOR = 3 };
enum { XLA_METADATA = 1, XLA_BUFFER = 1, XLA_SCALAR = 3, XLA_COMMAND_BUFFER_COMPATIBLE = 1 };
enum { XLA_INITIALIZE = 2, XLA_EXECUTE = 3 };
enum { XLA_S8 = 2, XLA_S16 = 3, XLA_S32 = 4, XLA_S64 = 5, XLA_U8 = 6, XLA_F16 = 10, XLA_F32 = 11, XLA_F64 = 12, XLA_BF16 = 16 };
enum { XLA_INVALID_ARGUMENT = 3, XLA_RESOURCE_EXHAUSTED = 8, XLA_FAILED_PRECONDITION = 9, XLA_INTERNAL = 13 };

typedef struct xla_extension {
    size_t struct_size;
    int32_t type;
    struct xla_extension *next;
} xla_extension;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    int32_t major, minor;
} xla_version;

typedef struct {
    size_t struct_size;
    xla_version api_version;
    uint32_t traits;
} xla_metadata;

typedef struct {
    xla_extension extension;
    xla_metadata *metadata;
} xla_metadata_extension;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    const char *message;
    int32_t code;
} xla_new_error;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    void *error;
} xla_old_error;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    void *context, *stream;
} xla_stream;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    void *context;
    int32_t ordinal;
} xla_ordinal;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    xla_version version;
    const void *internal;
    void *(*create_error)(xla_new_error *);
    void *message_of;
    void (*destroy_error)(xla_old_error *);
    void *register_handler;
    void *(*stream)(xla_stream *);
    void *others[12];
    void *(*ordinal)(xla_ordinal *);
} xla_api;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    int32_t dtype;
    void *data;
    int64_t rank, *dims;
} xla_buffer;

typedef struct {
    int32_t dtype;
    void *value;
} xla_scalar;

typedef struct {
    const char *at;
    size_t length;
} xla_text;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    int64_t count;
    int32_t *types;
    void **values;
} xla_list;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    int64_t count;
    int32_t *types;
    xla_text **names;
    void **values;
} xla_attributes;

typedef struct {
    size_t struct_size;
    xla_extension *extensions;
    const xla_api *api;
    void *context;
    int32_t stage;
    xla_list args, results;
    xla_attributes attributes;
} xla_frame;

/* A struct is as long as to the end of its last member. */
#define XLA_SIZE(type, last) (offsetof(type, last) + sizeof((type *)0)->last)
#define XLA_AT(type, member, offset) _Static_assert(offsetof(type, member) == (offset), #type " has another " #member)
XLA_AT(xla_metadata, traits, 32);
XLA_AT(xla_metadata_extension, metadata, 24);
XLA_AT(xla_new_error, code, 24);
XLA_AT(xla_ordinal, ordinal, 24);
XLA_AT(xla_api, version, 16);
XLA_AT(xla_api, create_error, 48);
XLA_AT(xla_api, stream, 80);
XLA_AT(xla_api, ordinal, 184);
XLA_AT(xla_buffer, dims, 40);
XLA_AT(xla_frame, stage, 32);
XLA_AT(xla_frame, args, 40);
XLA_AT(xla_frame, results, 80);
XLA_AT(xla_frame, attributes.values, 160);

static int32_t xla_code(moec_status status) {
    switch (status) {
    case MOEC_E_ARG:
    case MOEC_E_SHAPE:
    case MOEC_E_DTYPE:
    case MOEC_E_LAYOUT:
    case MOEC_E_WORKSPACE:
    case MOEC_E_DEVICE: return XLA_INVALID_ARGUMENT;
    case MOEC_E_ABI:
    case MOEC_E_NO_DRIVER:
    case MOEC_E_NO_IMAGE:
    case MOEC_E_CAPTURE: return XLA_FAILED_PRECONDITION;
    case MOEC_E_NOMEM: return XLA_RESOURCE_EXHAUSTED;
    default: return XLA_INTERNAL; /* of the CUDA driver */
    }
}

/* The error of a status, with the text of `fail`; null of MOEC_OK. Where XLA asks for metadata versions before 0.2 give no table, and refuse
 * a handler that does not answer. */
static void *xla_error(const xla_api *api, moec_status status) {
    if (status == MOEC_OK || !api) return NULL;
    xla_new_error made = {XLA_SIZE(xla_new_error, code), NULL, error_text, xla_code(status)};
    return api->create_error(&made);
}

/* An older struct of XLA has not all that is read of it. */
static moec_status xla_has(const char *what, size_t size, size_t wanted) {
    return size >= wanted ? MOEC_OK : fail(MOEC_E_ABI, "%s: XLA's %s has %zu bytes, %zu are needed: update jaxlib", tables.info->layer, what, size, wanted);
}

/* An XLA refuses a handler of a newer version than its own: it is told its own, where that is one of those known here. */
static moec_status xla_describe(const xla_api *api, xla_metadata_extension *asked) {
    moec_status status = xla_has("metadata extension", asked->extension.struct_size, XLA_SIZE(xla_metadata_extension, metadata));
    if (!status) status = xla_has("metadata", asked->metadata->struct_size, XLA_SIZE(xla_metadata, traits));
    if (status) return status;
    xla_version version = {XLA_SIZE(xla_version, minor), NULL, XLA_MAJOR, XLA_MINOR};
    if (!api) version.minor = XLA_LEAST_MINOR;
    else if (api->version.major == XLA_MAJOR && api->version.minor < XLA_MINOR)
        version.minor = api->version.minor < XLA_LEAST_MINOR ? XLA_LEAST_MINOR : api->version.minor;
    asked->metadata->api_version = version;
    asked->metadata->traits = has_device(MOEC_CUDA_GPU) ? XLA_COMMAND_BUFFER_COMPATIBLE : 0;
    return MOEC_OK;
}

/* The device that XLA calls for: a GPU where it has a stream. A library for one kind of device need not ask. */
static moec_status xla_device(const xla_frame *frame, moec_device *device, void **stream) {
    const xla_api *api = frame->api;
    xla_stream of_stream = {XLA_SIZE(xla_stream, stream), NULL, frame->context, NULL};
    xla_ordinal of_device = {XLA_SIZE(xla_ordinal, ordinal), NULL, frame->context, 0};
    device->device_type = MOEC_CPU;
    device->device_id = 0;
    *stream = NULL;
    if (!has_device(MOEC_CUDA_GPU)) return MOEC_OK;
    moec_status status = xla_has("table of functions", api->struct_size, XLA_SIZE(xla_api, ordinal));
    if (status) return status;
    void *error = api->stream(&of_stream);
    int is_cpu = error && has_device(MOEC_CPU);
    if (!error) error = api->ordinal(&of_device);
    if (error) {
        xla_old_error gone = {XLA_SIZE(xla_old_error, error), NULL, error};
        api->destroy_error(&gone);
        return is_cpu ? MOEC_OK : fail(MOEC_E_DEVICE, "%s has code for GPUs alone, and XLA has no stream here", tables.info->layer);
    }
    device->device_type = MOEC_CUDA_GPU;
    device->device_id = of_device.ordinal;
    *stream = of_stream.stream;
    return MOEC_OK;
}

static moec_dtype xla_dtype(int32_t dtype) {
    moec_dtype of = {255, 0, 1};
    switch (dtype) {
    case XLA_S8: of.code = 0, of.bits = 8; break;
    case XLA_S16: of.code = 0, of.bits = 16; break;
    case XLA_S32: of.code = 0, of.bits = 32; break;
    case XLA_S64: of.code = 0, of.bits = 64; break;
    case XLA_F16: of.code = 2, of.bits = 16; break;
    case XLA_F32: of.code = 2, of.bits = 32; break;
    case XLA_F64: of.code = 2, of.bits = 64; break;
    case XLA_BF16: of.code = 4, of.bits = 16; break;
    default: break;
    }
    return of;
}

/* S, where it is given; nothing else may be. */
static moec_status xla_sequence(const xla_attributes *given, int64_t *sequence_tokens) {
    static const char wanted[] = "sequence_tokens";
    *sequence_tokens = 0;
    for (int64_t i = 0; i < given->count; i++) {
        const xla_text *name = given->names[i];
        if (name->length != sizeof wanted - 1 || memcmp(name->at, wanted, sizeof wanted - 1) != 0)
            return fail(MOEC_E_ARG, "%s has no attribute `%.*s`", tables.info->layer, name->length < 64 ? (int)name->length : 64, name->at);
        const xla_scalar *scalar = given->values[i];
        if (given->types[i] != XLA_SCALAR || (scalar->dtype != XLA_S64 && scalar->dtype != XLA_S32))
            return fail(MOEC_E_ARG, "%s: `%s` is not an integer of 32 or 64 bits", tables.info->layer, wanted);
        int32_t narrow;
        if (scalar->dtype == XLA_S64) {
            memcpy(sequence_tokens, scalar->value, sizeof *sequence_tokens);
        } else {
            memcpy(&narrow, scalar->value, sizeof narrow);
            *sequence_tokens = narrow;
        }
    }
    return MOEC_OK;
}

/* The buffers of a list as tensors of this device. */
static moec_status xla_tensors(const xla_list *given, const char *what, moec_device device, moec_tensor *out) {
    for (int64_t i = 0; i < given->count; i++) {
        const xla_buffer *buffer = given->values[i];
        if (given->types[i] != XLA_BUFFER) return fail(MOEC_E_ARG, "%s: %s %" PRId64 " is not a buffer", tables.info->layer, what, i);
        moec_status status = xla_has("buffer", buffer->struct_size, XLA_SIZE(xla_buffer, dims));
        if (status) return status;
        moec_tensor tensor = {buffer->data, device, (int32_t)buffer->rank, xla_dtype(buffer->dtype), buffer->dims, NULL, 0};
        out[i] = tensor;
    }
    return MOEC_OK;
}

static moec_status xla_run(const xla_frame *frame, const moec_handle *handle, void *stream) {
    const moec_info *info = tables.info;
    uint32_t args = info->num_inputs + info->num_weights, results = info->num_outputs + 1;
    if (frame->args.count != args || frame->results.count != results)
        return fail(MOEC_E_ARG, "%s: %" PRId64 " arguments and %" PRId64 " results, not %u (%u inputs, %u weights) and %u (%u outputs, the workspace)",
                    info->layer, frame->args.count, frame->results.count, args, info->num_inputs, info->num_weights, results, info->num_outputs);
    moec_tensor of_args[MAX_PARAMS], of_results[MAX_PARAMS + 1];
    const moec_tensor *params[MAX_PARAMS];
    moec_run_args run = {sizeof run, params, info->num_params, 0, NULL, NULL, 0, stream, 0};
    moec_status status = xla_tensors(&frame->args, "argument", handle->device, of_args);
    if (!status) status = xla_tensors(&frame->results, "result", handle->device, of_results);
    if (!status) status = xla_sequence(&frame->attributes, &run.sequence_tokens);
    if (status) return status;
    for (uint32_t i = 0, arg = 0, result = 0; i < info->num_params; i++)
        params[i] = info->params[i].role == MOEC_OUTPUT ? &of_results[result++] : &of_args[arg++];
    const xla_buffer *workspace = frame->results.values[info->num_outputs];
    if (workspace->dtype != XLA_U8) return fail(MOEC_E_DTYPE, "%s: the workspace is not u8", info->layer);
    size_t bytes = 1;
    for (int64_t i = 0; i < workspace->rank; i++) bytes *= (size_t)workspace->dims[i];
    give_workspace(&run, workspace->data, workspace->data ? bytes : 0);
    return run_layer(handle, &run);
}

/* XLA's context is the device's primary one, as the handle's is; that it is current XLA does not promise. */
static moec_status xla_run_there(const xla_frame *frame, const moec_handle *handle, void *stream) {
    const driver *d = &handle->driver;
    if (handle->device.device_type == MOEC_CPU) return xla_run(frame, handle, stream);
    int result = d->push(handle->context);
    if (result) return driver_failed(d, "cuCtxPushCurrent", result);
    moec_status status = xla_run(frame, handle, stream);
    void *popped;
    d->pop(&popped);
    return status;
}

MOEC_EXPORT void *MOEC_XLA_FFI(void *call_frame) {
    const xla_frame *frame = call_frame;
    moec_status status = xla_has("call frame", frame->struct_size, XLA_SIZE(xla_frame, attributes));
    if (status) return xla_error(frame->api, status);
    for (xla_extension *one = frame->extensions; one; one = one->next)
        if (one->type == XLA_METADATA) return xla_error(frame->api, xla_describe(frame->api, (xla_metadata_extension *)(void *)one));
    if (frame->stage != XLA_INITIALIZE && frame->stage != XLA_EXECUTE) return NULL;
    const moec_handle *handle = NULL;
    moec_device device;
    void *stream;
    if ((status = xla_device(frame, &device, &stream)) || (status = kept_handle(device, &handle))) return xla_error(frame->api, status);
    return frame->stage == XLA_EXECUTE ? xla_error(frame->api, xla_run_there(frame, handle, stream)) : NULL;
}
