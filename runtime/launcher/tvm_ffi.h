/* The layer as a function of tvm-ffi: tensors in the order of moec_info.params, then a workspace of any type, then, if it is given, S. It
 * returns nothing. Of T alone, or of T and S, it returns the bytes of a workspace, which may lie anywhere. The stream is tvm-ffi's. Layout
 * of its values: tvm/ffi/c_api.h, TVMFFIAny and TVMFFIObject. */

typedef struct {
    int32_t type;
    uint32_t length;
    union { int64_t number; void *pointer; } is;
} ffi_any;

enum { FFI_NONE = 0, FFI_INT = 1, FFI_DLTENSOR = 7, FFI_TENSOR = 70, FFI_OBJECT_BYTES = 24 };

/* Of libtvm_ffi, where the process has it. */
__attribute__((weak)) extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);
__attribute__((weak)) extern void *TVMFFIEnvGetStream(int32_t device_type, int32_t device_id);

static int ffi_raised(moec_status status) {
    if (TVMFFIErrorSetRaisedFromCStr) TVMFFIErrorSetRaisedFromCStr(status == MOEC_E_NOMEM || status >= 0x10000 ? "RuntimeError" : "ValueError", error_text);
    return -1;
}

/* T, and S where there are two numbers: the workspace of a run, and what aligning it may take. */
static int ffi_workspace(const ffi_any *args, int32_t count, ffi_any *result) {
    moec_dims dims = {sizeof dims, args[0].is.number, count > 1 ? args[1].is.number : 0};
    size_t bytes = 0;
    moec_status status = workspace_size(NULL, &dims, &bytes, NULL);
    if (status) return ffi_raised(status);
    result->type = FFI_INT;
    result->is.number = (int64_t)bytes + WORKSPACE_ALIGN - 1;
    return 0;
}

MOEC_EXPORT int MOEC_TVM_FFI(void *self, const void *given, int32_t count, void *result) {
    const ffi_any *args = given;
    const moec_tensor *tensors[MAX_PARAMS + 1];
    const moec_handle *handle = NULL;
    int32_t wanted = (int32_t)tables.info->num_params + 1;
    (void)self;
    ((ffi_any *)result)->type = FFI_NONE;
    ((ffi_any *)result)->length = 0;
    ((ffi_any *)result)->is.number = 0;
    if ((count == 1 || (count == 2 && args[1].type == FFI_INT)) && args[0].type == FFI_INT) return ffi_workspace(args, count, result);
    if (count != wanted && count != wanted + 1)
        return ffi_raised(fail(MOEC_E_ARG, "%s takes %d tensors (inputs, outputs, weights, workspace) and, if the batch is several sequences, S; of T "
                                           "alone it gives the bytes of the workspace", tables.info->layer, wanted));
    for (int32_t i = 0; i < wanted; i++) {
        tensors[i] = args[i].type == FFI_DLTENSOR ? args[i].is.pointer
                     : args[i].type == FFI_TENSOR ? (const void *)((const char *)args[i].is.pointer + FFI_OBJECT_BYTES)
                                                  : NULL;
        if (!tensors[i]) return ffi_raised(fail(MOEC_E_ARG, "%s: argument %d is not a tensor", tables.info->layer, i));
    }
    if (count > wanted && args[wanted].type != FFI_INT) return ffi_raised(fail(MOEC_E_ARG, "%s: S is not an integer", tables.info->layer));
    const moec_tensor *workspace = tensors[wanted - 1];
    moec_device device = tensors[0]->device;
    moec_status status = kept_handle(device, &handle);
    if (status) return ffi_raised(status);
    if (!is_on(handle, workspace->device))
        return ffi_raised(fail(MOEC_E_DEVICE, "%s: the workspace is on device (%d, %d)", tables.info->layer, workspace->device.device_type,
                               workspace->device.device_id));
    int64_t stride = 1;
    for (int32_t i = workspace->ndim - 1; i >= 0; stride *= workspace->shape[i--])
        if (workspace->strides && workspace->shape[i] != 1 && workspace->strides[i] != stride)
            return ffi_raised(fail(MOEC_E_LAYOUT, "%s: the workspace has gaps", tables.info->layer));
    int64_t bytes = (workspace->dtype.bits * workspace->dtype.lanes + 7) / 8;
    for (int32_t i = 0; i < workspace->ndim; i++) bytes *= workspace->shape[i];
    moec_run_args run = {sizeof run, tensors, tables.info->num_params, 0, NULL, NULL, 0, NULL, count > wanted ? args[wanted].is.number : 0};
    give_workspace(&run, (char *)workspace->data + workspace->byte_offset, (size_t)bytes);
    if (device.device_type == MOEC_CUDA_GPU && TVMFFIEnvGetStream) run.stream = TVMFFIEnvGetStream(device.device_type, device.device_id);
    status = run_layer(handle, &run);
    return status ? ffi_raised(status) : 0;
}
