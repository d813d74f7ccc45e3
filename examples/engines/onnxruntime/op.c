/* A layer as an operator of ONNX Runtime: domain "moec", type "mixtral". Its inputs are those of the layer and then its weights, as in
 * mixtral.h; its output is `y`, of the shape of `x`. */
#include "mixtral.h"
#include "onnxruntime_c_api.h"

#include <stdlib.h>

#define TRY(call) \
    do { \
        OrtStatusPtr status_ = (call); \
        if (status_) return status_; \
    } while (0)

enum { MAX_DIMS = 8 };

typedef struct {
    const OrtApi *ort;
    const moec_api *moec;
    moec_handle *handle;
} kernel;

/* What the layer says of an error, as a status of ONNX Runtime. */
static OrtStatusPtr checked(const OrtApi *ort, const moec_api *moec, moec_status status) {
    char text[512];
    if (status == MOEC_OK) return NULL;
    moec->last_error(text, sizeof text);
    return ort->CreateStatus(status == MOEC_E_NOMEM ? ORT_FAIL : ORT_INVALID_ARGUMENT, text);
}

static OrtStatusPtr create(const OrtCustomOp *op, const OrtApi *ort, const OrtKernelInfo *info, void **out) {
    const moec_api *moec = mixtral_get_api(MOEC_ABI_VERSION);
    (void)op, (void)info;
    if (!moec) return ort->CreateStatus(ORT_FAIL, "mixtral: the library has another ABI");
    moec_options options = {.struct_size = sizeof options, .device = {MOEC_CPU, 0}};
    moec_handle *handle;
    TRY(checked(ort, moec, moec->create(&options, &handle)));
    kernel *made = malloc(sizeof *made);
    if (!made) {
        moec->destroy(handle);
        return ort->CreateStatus(ORT_FAIL, "out of memory");
    }
    *made = (kernel){ort, moec, handle};
    *out = made;
    return NULL;
}

static void destroy(void *self) {
    kernel *k = self;
    k->moec->destroy(k->handle);
    free(k);
}

/* Address and shape of an input or output. */
static OrtStatusPtr tensor_of(const OrtApi *ort, const OrtValue *value, const moec_param *param, int64_t *shape, moec_tensor *out) {
    OrtTensorTypeAndShapeInfo *info;
    size_t ndim;
    void *data;
    TRY(ort->GetTensorMutableData((OrtValue *)value, &data));
    TRY(ort->GetTensorTypeAndShape(value, &info));
    OrtStatusPtr status = ort->GetDimensionsCount(info, &ndim);
    if (!status && ndim > MAX_DIMS) status = ort->CreateStatus(ORT_INVALID_ARGUMENT, "more than 8 dimensions");
    if (!status) status = ort->GetDimensions(info, shape, ndim);
    ort->ReleaseTensorTypeAndShapeInfo(info);
    if (status) return status;
    /* ONNX Runtime has compared the element type with `input_type`. */
    *out = (moec_tensor){data, {MOEC_CPU, 0}, (int32_t)ndim, param->dtype, shape, NULL, 0};
    return NULL;
}

/* The place of an input of the node among moec_info.params. */
static size_t place(const moec_info *info, size_t input) { return input < info->num_inputs ? input : input + info->num_outputs; }

static OrtStatusPtr compute(void *self, OrtKernelContext *context) {
    const kernel *k = self;
    const OrtApi *ort = k->ort;
    const moec_info *info = k->moec->info();
    moec_tensor tensors[MIXTRAL_PARAMS];
    const moec_tensor *params[MIXTRAL_PARAMS];
    int64_t shapes[MIXTRAL_PARAMS][MAX_DIMS];
    for (size_t i = 0; i < MIXTRAL_PARAMS; i++) params[i] = &tensors[i];
    for (size_t i = 0; i < info->num_inputs + info->num_weights; i++) {
        size_t at = place(info, i);
        const OrtValue *value;
        TRY(ort->KernelContext_GetInput(context, i, &value));
        TRY(tensor_of(ort, value, &info->params[at], shapes[at], &tensors[at]));
    }
    OrtValue *y;
    TRY(ort->KernelContext_GetOutput(context, 0, shapes[MIXTRAL_X], (size_t)tensors[MIXTRAL_X].ndim, &y));
    TRY(tensor_of(ort, y, &info->params[MIXTRAL_Y], shapes[MIXTRAL_Y], &tensors[MIXTRAL_Y]));

    /* Several runs of a session may be in here at once: each has a workspace of its own. */
    moec_dims dims = {.struct_size = sizeof dims, .tokens = shapes[MIXTRAL_X][0]};
    moec_run_args args = {.struct_size = sizeof args, .params = params, .num_params = MIXTRAL_PARAMS};
    size_t align;
    TRY(checked(ort, k->moec, k->moec->workspace_size(k->moec->target(k->handle), &dims, &args.workspace_bytes, &align)));
    args.workspace = aligned_alloc(align, (args.workspace_bytes / align + 1) * align);
    if (!args.workspace) return ort->CreateStatus(ORT_FAIL, "out of memory");
    OrtStatusPtr status = checked(ort, k->moec, k->moec->run(k->handle, &args));
    free(args.workspace);
    return status;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "mixtral"; }
static const char *provider(const OrtCustomOp *op) { return (void)op, NULL; /* the CPU */ }

static ONNXTensorElementDataType element(const moec_param *param) {
    moec_dtype dtype = param->dtype;
    if (dtype.code == 2) return dtype.bits == 32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    return dtype.code == 4 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

static const moec_info *layer(void) { return mixtral_get_api(MOEC_ABI_VERSION)->info(); }
static ONNXTensorElementDataType input_type(const OrtCustomOp *op, size_t i) { return (void)op, element(&layer()->params[place(layer(), i)]); }
static ONNXTensorElementDataType output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, element(&layer()->params[MIXTRAL_Y]); }
static size_t inputs(const OrtCustomOp *op) { return (void)op, layer()->num_inputs + layer()->num_weights; }
static size_t outputs(const OrtCustomOp *op) { return (void)op, 1; }
static OrtCustomOpInputOutputCharacteristic required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, INPUT_OUTPUT_REQUIRED; }
static OrtMemType memory(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, OrtMemTypeDefault; }

static const OrtCustomOp mixtral = {
    .version = ORT_API_VERSION, .GetName = name, .GetExecutionProviderType = provider, .GetInputType = input_type,
    .GetInputTypeCount = inputs, .GetOutputType = output_type, .GetOutputTypeCount = outputs, .KernelDestroy = destroy,
    .GetInputCharacteristic = required, .GetOutputCharacteristic = required, .GetInputMemoryType = memory,
    .CreateKernelV2 = create, .KernelComputeV2 = compute,
};

/* What ONNX Runtime looks for in the library. The domain must outlive the sessions, so that it stays. */
__attribute__((visibility("default"))) OrtStatusPtr RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);
OrtStatusPtr RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *ort = base->GetApi(ORT_API_VERSION);
    OrtCustomOpDomain *domain;
    if (!ort) return base->GetApi(1)->CreateStatus(ORT_FAIL, "mixtral: this ONNX Runtime is older than 1.16");
    if (!mixtral_get_api(MOEC_ABI_VERSION)) return ort->CreateStatus(ORT_FAIL, "mixtral: the library has another ABI");
    TRY(ort->CreateCustomOpDomain("moec", &domain));
    TRY(ort->CustomOpDomain_Add(domain, &mixtral));
    return ort->AddCustomOpDomain(options, domain);
}
