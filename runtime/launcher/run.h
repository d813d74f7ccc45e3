/* The launches of a run. */

/* A tensor map of an address: dimensions from the innermost on, strides in bytes, elements one by one. */
static moec_status encode(const batch *r, const moec_arg *arg, cu_tensor_map *out) {
    const moec_map *map = &tables.maps[arg->map];
    const driver *d = &r->handle->driver;
    uint64_t extents[3], strides[2];
    uint32_t tile[3], steps[3] = {1, 1, 1};
    for (int i = 0; i < 3; i++) extents[i] = (uint64_t)r->values[map->extents[2 - i]], tile[i] = map->tile[2 - i];
    for (int i = 0; i < 2; i++) strides[i] = (uint64_t)r->values[map->strides[1 - i]] * map->element_bytes;
    enum { NO_INTERLEAVE = 0, PROMOTION_256 = 3, FILL_ZERO = 0 };
    if (!d->encode) return fail(MOEC_E_NO_DRIVER, "the CUDA driver has no cuTensorMapEncodeTiled: update it");
    int result = d->encode(out, (int)map->dtype, 3, buffer(r, arg), extents, strides, tile, steps, NO_INTERLEAVE, (int)map->swizzle, PROMOTION_256, FILL_ZERO);
    return result ? driver_failed(d, "cuTensorMapEncodeTiled", result) : MOEC_OK;
}

static moec_status launch_gpu(const batch *r, const moec_step *step, uint64_t count, int first) {
    const moec_kernel *kernel = &tables.kernels[r->handle->target->kernels + step->kernel];
    uint64_t words[MAX_ARGS];
    void *args[MAX_ARGS];
    cu_tensor_map maps[MAX_MAPS];
    uint32_t num_maps = 0;
    for (uint32_t i = 0; i < step->num_args; i++) {
        const moec_arg *arg = &tables.args[step->args + i];
        if (arg->map == NONE) {
            words[i] = word(r, arg);
            args[i] = &words[i];
        } else {
            moec_status status = encode(r, arg, &maps[num_maps]);
            if (status) return status;
            args[i] = &maps[num_maps++];
        }
    }
    cu_attribute attributes[2];
    memset(attributes, 0, sizeof attributes);
    cu_config config = {{(uint32_t)count, 1, 1}, {kernel->threads, 1, 1}, kernel->dynamic_shared_bytes, r->stream, attributes, 0};
    if (kernel->cluster > 1) {
        cu_attribute *cluster = &attributes[config.num_attributes++];
        cluster->id = CU_CLUSTER;
        cluster->value.words[0] = kernel->cluster, cluster->value.words[1] = cluster->value.words[2] = 1;
    }
    if (step->early && !first) {
        cu_attribute *early = &attributes[config.num_attributes++];
        early->id = CU_EARLY;
        early->value.words[0] = 1;
    }
    int result = r->handle->driver.launch(&config, r->handle->kernels[step->kernel], args, NULL);
    return result ? driver_failed(&r->handle->driver, kernel->name, result) : MOEC_OK;
}

/* That every launch has a grid and numbers that its kernel takes. */
static moec_status check_steps(const batch *r, uint32_t from, uint32_t count) {
    for (const moec_step *step = &tables.steps[from], *end = step + count; step < end; step++) {
        const moec_kernel *kernel = &tables.kernels[r->handle->target->kernels + step->kernel];
        int64_t grid = r->values[step->grid];
        if (grid > INT32_MAX || grid % kernel->cluster)
            return fail(MOEC_E_SHAPE, "%s: a grid of %" PRId64 " blocks of %s cannot be launched", tables.info->layer, grid, kernel->name);
        for (uint32_t i = 0; i < step->num_args; i++) {
            const moec_arg *arg = &tables.args[step->args + i];
            if (arg->kind == ARG_I32 && r->values[arg->of] > INT32_MAX)
                return fail(MOEC_E_SHAPE, "%s: %" PRId64 " does not fit in the argument %u of %s", tables.info->layer, r->values[arg->of], i, kernel->name);
        }
    }
    return MOEC_OK;
}

static moec_status launch_steps(const batch *r, uint32_t from, uint32_t count) {
    if (r->handle->device.device_type == MOEC_CPU) return launch_cpu(r, &tables.steps[from], count);
    moec_status status = MOEC_OK;
    int first = 1;
    for (const moec_step *step = &tables.steps[from], *end = step + count; step < end && !status; step++) {
        uint64_t blocks = (uint64_t)r->values[step->grid];
        if (blocks == 0) continue;
        status = launch_gpu(r, step, blocks, first);
        first = 0;
    }
    return status;
}

static moec_status check(const moec_handle *h, const moec_run_args *args) {
    batch r;
    moec_status status = prepare_run(h, args, &r);
    if (status || !r.regime) return status;
    status = check_steps(&r, r.regime->steps, r.regime->num_steps);
    return status ? status : check_steps(&r, r.regime->updates, r.regime->num_updates);
}

static moec_status run_layer(const moec_handle *h, const moec_run_args *args) {
    batch r;
    moec_status status = prepare_run(h, args, &r);
    if (status || !r.regime) return status;
    if ((status = check_steps(&r, r.regime->steps, r.regime->num_steps))) return status;
    if (!r.is_bound && (status = launch_steps(&r, h->target->prepare, h->target->num_prepare))) return status;
    for (int64_t first = 0; first < r.tokens && !status; first += r.part) {
        take_part(&r, first);
        status = launch_steps(&r, r.regime->steps, r.regime->num_steps);
    }
    return status;
}

static moec_status update(const moec_handle *h, const moec_run_args *args) {
    batch r;
    moec_status status = prepare_run(h, args, &r);
    if (status || !r.regime) return status;
    if ((status = check_steps(&r, r.regime->updates, r.regime->num_updates))) return status;
    return launch_steps(&r, r.regime->updates, r.regime->num_updates);
}

/* What is launched on a stream that is being captured is not done, but the binding would say that it is. */
static moec_status is_done_now(const moec_handle *h, void *stream) {
    int capturing = 0; /* CUstreamCaptureStatus */
    if (h->device.device_type == MOEC_CPU || h->target->num_prepare == 0) return MOEC_OK;
    int result = h->driver.is_capturing(stream, &capturing);
    if (result) return driver_failed(&h->driver, "cuStreamIsCapturing", result);
    return capturing ? driver_failed(&h->driver, "bind", CU_CAPTURE_UNSUPPORTED) : MOEC_OK;
}

static moec_status bind(const moec_handle *h, const moec_bind_args *given, moec_binding **out) {
    if (!out) return fail(MOEC_E_ARG, "bind: no place for the binding");
    *out = NULL;
    moec_status status = is_own(h);
    if (status) return status;
    READ(moec_bind_args, args, given);
    READ_FLAGS(moec_bind_args, args, MOEC_BIND_PREPARED);
    const moec_info *info = tables.info;
    if (args.num_weights != info->num_weights || (!args.weights && info->num_weights > 0))
        return fail(MOEC_E_ARG, "%s: %u weights, not %u", info->layer, args.num_weights, info->num_weights);
    size_t prepared = prepared_bytes(h->target);
    if (prepared > 0 && (!args.prepared || args.prepared_bytes < prepared))
        return fail(MOEC_E_WORKSPACE, "%s: the prepared memory has %zu bytes, %zu are needed", info->layer, args.prepared ? args.prepared_bytes : 0, prepared);
    if ((uintptr_t)args.prepared % WORKSPACE_ALIGN)
        return fail(MOEC_E_WORKSPACE, "%s: the prepared memory is not aligned to %d bytes", info->layer, WORKSPACE_ALIGN);
    batch r;
    memset(&r, 0, offsetof(batch, token_bytes));
    r.handle = h;
    r.prepared = args.prepared;
    r.workspace = NULL;
    r.stream = args.stream;
    common_values(0, 0, r.values);
    uint32_t first = info->num_inputs + info->num_outputs;
    for (uint32_t i = 0; i < info->num_weights; i++)
        if ((status = address(h, first + i, args.weights[i], r.values, &r.params[first + i], &r.token_bytes[first + i]))) return status;
    if (!(args.flags & MOEC_BIND_PREPARED)) {
        if ((status = check_steps(&r, h->target->prepare, h->target->num_prepare))) return status;
        if ((status = is_done_now(h, args.stream))) return status;
        if ((status = launch_steps(&r, h->target->prepare, h->target->num_prepare))) return status;
    }
    moec_binding *binding = malloc(sizeof *binding + info->num_weights * sizeof *binding->weights);
    if (!binding) return fail(MOEC_E_NOMEM, "out of host memory");
    binding->handle = h;
    binding->prepared = args.prepared;
    memcpy(binding->weights, &r.params[first], info->num_weights * sizeof *binding->weights);
    *out = binding;
    return MOEC_OK;
}

static void unbind(moec_binding *binding) { free(binding); }
