/* What a run is given, checked. */

typedef struct {
    const moec_handle *handle;
    const moec_regime *regime; /* of a part, as are the values */
    int64_t values[MAX_VALUES];
    int is_bound;
    int64_t tokens, sequence_tokens, part; /* of the batch; the tokens of a part */
    int64_t first;                         /* token of the part */
    size_t token_bytes[MAX_PARAMS];        /* of each of the caller's tensors; 0 where it is not one of tokens */
    void *params[MAX_PARAMS];
    uint8_t *prepared, *workspace;
    void *stream;
} batch;

static const char *dtype_name(moec_dtype dtype) {
    if (dtype.lanes == 1) {
        if (dtype.code == 2) return dtype.bits == 32 ? "f32" : dtype.bits == 16 ? "f16" : "another float";
        if (dtype.code == 4 && dtype.bits == 16) return "bf16";
        if (dtype.code == 0) return dtype.bits == 32 ? "i32" : dtype.bits == 64 ? "i64" : "another integer";
    }
    return "another type";
}

static void shape_text(const int64_t *shape, int32_t ndim, char *text, size_t capacity) {
    size_t at = (size_t)snprintf(text, capacity, "[");
    for (int32_t i = 0; i < ndim && at < capacity; i++) at += (size_t)snprintf(text + at, capacity - at, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (at < capacity) snprintf(text + at, capacity - at, "]");
}

static int is_on(const moec_handle *h, moec_device device) {
    enum { HOST_PINNED = 3, MANAGED = 13 }; /* DLPack: kDLCUDAHost, kDLCUDAManaged */
    if (h->device.device_type == MOEC_CPU) return device.device_type == MOEC_CPU || device.device_type == HOST_PINNED;
    return (device.device_type == MOEC_CUDA_GPU && device.device_id == h->device.device_id) || device.device_type == MANAGED;
}

/* The address of a tensor that is what the layer takes at its place. */
static moec_status address(const moec_handle *h, uint32_t param, const moec_tensor *tensor, const int64_t *v, void **out, size_t *token_bytes) {
    const moec_param *is = &tables.info->params[param];
    const moec_shape *shape = &tables.shapes[param];
    if (!tensor) return fail(MOEC_E_ARG, "%s: `%s` is null", tables.info->layer, is->name);
    if (!tensor->shape && tensor->ndim > 0) return fail(MOEC_E_ARG, "%s: `%s` has no shape", tables.info->layer, is->name);
    if (tensor->dtype.code != is->dtype.code || tensor->dtype.bits != is->dtype.bits || tensor->dtype.lanes != is->dtype.lanes)
        return fail(MOEC_E_DTYPE, "%s: `%s` is %s, not %s", tables.info->layer, is->name, dtype_name(tensor->dtype), dtype_name(is->dtype));
    int same = tensor->ndim == (int32_t)is->ndim, dense = 1;
    int64_t stride = 1;
    for (int32_t i = (int32_t)is->ndim - 1; same && i >= 0; i--) {
        int64_t extent = v[tables.values[shape->extents + (uint32_t)i]];
        same = tensor->shape[i] == extent;
        if (tensor->strides && extent != 1 && tensor->strides[i] != stride) dense = 0;
        stride *= extent;
    }
    if (!same) {
        char has[96], wants[96];
        int64_t extents[8];
        for (uint32_t i = 0; i < is->ndim && i < 8; i++) extents[i] = v[tables.values[shape->extents + i]];
        shape_text(tensor->shape, tensor->ndim, has, sizeof has);
        shape_text(extents, (int32_t)is->ndim, wants, sizeof wants);
        return fail(MOEC_E_SHAPE, "%s: `%s` is %s, not %s (%s)", tables.info->layer, is->name, has, wants, is->shape);
    }
    if (!dense && stride != 0)
        return fail(MOEC_E_LAYOUT, "%s: `%s` is not row-major without gaps: make it contiguous", tables.info->layer, is->name);
    if (!is_on(h, tensor->device))
        return fail(MOEC_E_DEVICE, "%s: `%s` is on device (%d, %d), the handle on (%d, %d)", tables.info->layer, is->name, tensor->device.device_type,
                    tensor->device.device_id, h->device.device_type, h->device.device_id);
    uintptr_t at = (uintptr_t)tensor->data + (uintptr_t)tensor->byte_offset;
    if (!tensor->data && stride != 0) return fail(MOEC_E_ARG, "%s: `%s` has no data", tables.info->layer, is->name);
    if (at % is->align) return fail(MOEC_E_LAYOUT, "%s: `%s` is not aligned to %u bytes", tables.info->layer, is->name, is->align);
    *out = (void *)at;
    *token_bytes = shape->tokens_axis == 0 && v[0] > 0 ? (size_t)(stride / v[0]) * (is->dtype.bits / 8u) : 0;
    return MOEC_OK;
}

/* T, as the first input that has it says. */
static moec_status tokens_of(const moec_tensor *const *params, int64_t *tokens) {
    const moec_info *info = tables.info;
    uint32_t i = 0;
    while (i < info->num_inputs && tables.shapes[i].tokens_axis == NONE) i++;
    if (i == info->num_inputs) return fail(MOEC_E_ARG, "%s: no input says how many tokens there are", info->layer);
    const moec_param *is = &info->params[i];
    if (!params[i]) return fail(MOEC_E_ARG, "%s: `%s` is null", info->layer, is->name);
    if (params[i]->ndim != (int32_t)is->ndim)
        return fail(MOEC_E_SHAPE, "%s: `%s` has %d axes, not %u (%s)", info->layer, is->name, params[i]->ndim, is->ndim, is->shape);
    if (!params[i]->shape) return fail(MOEC_E_ARG, "%s: `%s` has no shape", info->layer, is->name);
    *tokens = params[i]->shape[tables.shapes[i].tokens_axis];
    return MOEC_OK;
}

static size_t prepared_bytes(const moec_target *target) { return (size_t)tables.constants[target->prepared_bytes]; }

/* The part that begins with this token. */
static void take_part(batch *r, int64_t first) {
    int64_t rest = r->tokens - first, tokens = rest < r->part ? rest : r->part;
    r->first = first;
    r->regime = regime_at(r->handle->target, tokens);
    /* The values of the whole batch, or of the part before, are evaluated. */
    if (tokens != r->values[0]) workspace_of(r->handle->target, tokens, part_sequence(tokens, r->sequence_tokens), r->values);
}

/* Everything that can be wrong. Where there are no tokens, `regime` is null and nothing is to be done. */
static moec_status prepare_run(const moec_handle *h, const moec_run_args *given, batch *r) {
    moec_status status = is_own(h);
    if (status) return status;
    READ(moec_run_args, args, given);
    READ_FLAGS(moec_run_args, args, 0u);
    const moec_info *info = tables.info;
    uint32_t activations = info->num_inputs + info->num_outputs, wanted = activations + (args.binding ? 0 : info->num_weights);
    if (!args.params || args.num_params != wanted)
        return fail(MOEC_E_ARG, "%s: %u tensors, not %u (%u inputs, %u outputs, %u weights%s)", info->layer, args.params ? args.num_params : 0, wanted,
                    info->num_inputs, info->num_outputs, info->num_weights, args.binding ? " of the binding" : "");
    if (args.binding && args.binding->handle != h) return fail(MOEC_E_ARG, "%s: weights that are bound to another handle", info->layer);
    int64_t tokens = 0;
    r->regime = NULL;
    if ((status = tokens_of(args.params, &tokens))) return status;
    if ((status = common_values(tokens, args.sequence_tokens, r->values))) return status;
    if (tokens == 0) return MOEC_OK;
    r->tokens = r->values[0];
    r->sequence_tokens = r->values[1];
    for (uint32_t i = 0; i < wanted; i++)
        if ((status = address(h, i, args.params[i], r->values, &r->params[i], &r->token_bytes[i]))) return status;
    for (uint32_t i = activations; i < info->num_params; i++) r->token_bytes[i] = 0;
    if (args.binding)
        for (uint32_t i = 0; i < info->num_weights; i++) r->params[activations + i] = args.binding->weights[i];
    /* Without a binding what is prepared of the weights lies behind the rest of the workspace. */
    int64_t unbound = args.binding ? 0 : (int64_t)prepared_bytes(h->target), given_bytes = 0, needed;
    if (args.workspace) given_bytes = args.workspace_bytes < INT64_MAX ? (int64_t)args.workspace_bytes : INT64_MAX;
    int64_t limit = given_bytes - unbound < tables.workspace_limit ? given_bytes - unbound : tables.workspace_limit;
    r->part = part_tokens(h->target, r->tokens, r->sequence_tokens, limit, r->values, &needed);
    if (r->part == 0)
        return fail(MOEC_E_WORKSPACE, "%s: the workspace has %" PRId64 " bytes, %s of T = %" PRId64 " needs %" PRId64, info->layer, given_bytes,
                    tables.cuts == CUT_NOWHERE ? "a run" : "even a part of a run", tokens, needed + unbound);
    if ((uintptr_t)args.workspace % WORKSPACE_ALIGN)
        return fail(MOEC_E_WORKSPACE, "%s: the workspace is not aligned to %d bytes", info->layer, WORKSPACE_ALIGN);
    r->handle = h;
    r->is_bound = args.binding != NULL;
    r->workspace = args.workspace;
    r->stream = args.stream;
    take_part(r, 0);
    r->prepared = args.binding ? args.binding->prepared : (uint8_t *)args.workspace + r->values[r->regime->workspace];
    return MOEC_OK;
}

static void *buffer(const batch *r, const moec_arg *arg) {
    switch ((moec_arg_kind)arg->kind) {
    case ARG_PARAM: return (uint8_t *)r->params[arg->of] + (size_t)r->first * r->token_bytes[arg->of];
    case ARG_PREPARED: return r->prepared + r->values[arg->of];
    case ARG_WORKSPACE: return r->workspace + r->values[arg->of];
    case ARG_I32:
    case ARG_I64: break;
    }
    return NULL;
}

/* What an argument is in 64 bits. */
static uint64_t word(const batch *r, const moec_arg *arg) {
    int is_number = arg->kind == ARG_I32 || arg->kind == ARG_I64;
    return is_number ? (uint64_t)r->values[arg->of] : (uint64_t)(uintptr_t)buffer(r, arg);
}
