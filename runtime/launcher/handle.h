/* Handles and bindings. */

struct moec_handle {
    const moec_layer *tables;
    const moec_target *target;
    moec_device device;
    /* CPU */
    moec_parallel_for parallel_for;
    void *parallel_for_user;
    threads *threads;
    uint32_t num_threads; /* that may take part in a run */
    /* GPU */
    driver driver;
    int ordinal;
    void *context, *library;
    void **kernels; /* CUkernel, by the target's number */
};

struct moec_binding {
    const moec_handle *handle;
    void *prepared;
    void *weights[]; /* addresses, in order */
};

static void all_targets(char *text, size_t capacity) {
    size_t at = 0;
    text[0] = 0;
    for (uint32_t i = 0; i < tables.info->num_targets && at < capacity; i++)
        at += (size_t)snprintf(text + at, capacity - at, "%s%s", i ? ", " : "", tables.targets[i].name);
}

static const moec_target *target_named(const char *name) {
    for (uint32_t i = 0; i < tables.info->num_targets; i++)
        if (!name || strcmp(tables.targets[i].name, name) == 0) return &tables.targets[i];
    char targets[256];
    all_targets(targets, sizeof targets);
    fail(MOEC_E_ARG, "%s has no target %s; it has %s", tables.info->layer, name, targets);
    return NULL;
}

static moec_status create_cpu(moec_handle *h, const moec_options *options) {
    const moec_target *best = NULL, *near = NULL;
    uint32_t most = 0, least_missing = UINT32_MAX;
    char missing[256], of_near[256] = "", targets[256];
    for (uint32_t i = 0; i < tables.info->num_targets; i++) {
        const moec_target *target = &tables.targets[i];
        uint32_t used;
        if (target->device_type != MOEC_CPU) continue;
        uint32_t lacks = cpu_missing(target, missing, sizeof missing, &used);
        if (lacks == 0 && (!best || used > most)) best = target, most = used;
        if (lacks < least_missing) near = target, least_missing = lacks, memcpy(of_near, missing, sizeof missing);
    }
    if (!best && near)
        return fail(MOEC_E_NO_IMAGE, "this CPU cannot run %s: it has no%s (compile for another target of CPUs, or a GPU)", near->name, of_near);
    if (!best) {
        all_targets(targets, sizeof targets);
        return fail(MOEC_E_NO_IMAGE, "%s has no code for CPUs; it has %s (compile with --target host)", tables.info->layer, targets);
    }
    h->target = best;
    moec_status status = thread_count(options->threads, &h->num_threads);
    if (status) return status;
    if (options->parallel_for) {
        h->parallel_for = options->parallel_for;
        h->parallel_for_user = options->parallel_for_user;
        return MOEC_OK;
    }
    status = start_threads(h->num_threads, &h->threads);
    h->parallel_for = parallel_for;
    h->parallel_for_user = h->threads;
    return status;
}

static moec_status too_old(const moec_target *target, int version) {
    return fail(MOEC_E_NO_DRIVER, "the CUDA driver (%d.%d) is too old for the PTX of %s, which needs %u.%u: update it, or link a package with cubins",
                version / 1000, version % 1000 / 10, target->name, target->least_driver / 1000, target->least_driver % 1000 / 10);
}

static moec_status refused_image(const driver *d, const moec_image *image, const moec_target *target, int result, int version) {
    if (result == CU_UNSUPPORTED_PTX && image->kind == IMAGE_PTX) return too_old(target, version);
    if (result == CU_NO_JIT || result == CU_JIT_DISABLED)
        return fail(MOEC_E_NO_IMAGE, "the CUDA driver cannot compile the PTX of %s here (%s): link a package with cubins", target->name, driver_word(d, result));
    if (result == CU_NO_BINARY)
        return fail(MOEC_E_NO_IMAGE, "the image of %s has no code for this GPU (%s)", target->name, driver_word(d, result));
    return driver_failed(d, "cuLibraryLoadData", result);
}

/* Loads the image and every kernel now: the driver would otherwise do it at the first launch, which may be captured. */
static moec_status load_kernels(moec_handle *h, const moec_image *image, int version) {
    driver *d = &h->driver;
    if (image->kind == IMAGE_PTX && (uint32_t)version < h->target->least_driver) return too_old(h->target, version);
    int result = d->load(&h->library, image->bytes, NULL, NULL, 0, NULL, NULL, 0);
    if (result) return refused_image(d, image, h->target, result, version);
    h->kernels = calloc(h->target->num_kernels, sizeof *h->kernels);
    if (!h->kernels) return fail(MOEC_E_NOMEM, "out of host memory");
    for (uint32_t i = 0; i < h->target->num_kernels; i++) {
        const moec_kernel *kernel = &tables.kernels[h->target->kernels + i];
        void *function = NULL;
        result = d->kernel(&h->kernels[i], h->library, kernel->name);
        if (result == CU_NOT_FOUND) return fail(MOEC_E_NO_IMAGE, "the image of %s has no kernel %s", h->target->name, kernel->name);
        if (result) return driver_failed(d, "cuLibraryGetKernel", result);
        if (kernel->dynamic_shared_bytes &&
            (result = d->set(CU_DYNAMIC_SHARED, (int)kernel->dynamic_shared_bytes, h->kernels[i], h->ordinal)))
            return driver_failed(d, "cuKernelSetAttribute", result);
        if ((result = d->function(&function, h->kernels[i]))) return driver_failed(d, "cuKernelGetFunction", result);
        if (d->load_function && (result = d->load_function(function))) return driver_failed(d, "cuFuncLoad", result);
    }
    return MOEC_OK;
}

static moec_status create_gpu(moec_handle *h, const moec_options *options) {
    driver *d = &h->driver;
    moec_status status = open_driver(options, d);
    if (status) return status;
    int result, major = 0, minor = 0, version = 0;
    d->version(&version);
    if ((result = d->device(&h->ordinal, h->device.device_id))) return driver_failed(d, "cuDeviceGet", result);
    if ((result = d->device_attribute(&major, CU_MAJOR, h->ordinal)) || (result = d->device_attribute(&minor, CU_MINOR, h->ordinal)))
        return driver_failed(d, "cuDeviceGetAttribute", result);
    const moec_image *image = image_for((uint32_t)(major * 10 + minor), &h->target);
    if (!image) {
        char targets[256];
        all_targets(targets, sizeof targets);
        return fail(MOEC_E_NO_IMAGE,
                    "%s has no code for GPU %d, which is sm_%d%d; it has %s (compile for one that `moec targets` lists, as new as it or older)",
                    tables.info->layer, h->device.device_id, major, minor, targets);
    }
    if ((result = d->retain(&h->context, h->ordinal))) return driver_failed(d, "cuDevicePrimaryCtxRetain", result);
    if ((result = d->push(h->context))) return driver_failed(d, "cuCtxPushCurrent", result);
    void *popped;
    status = load_kernels(h, image, version);
    d->pop(&popped);
    return status;
}

static void destroy(moec_handle *h) {
    if (!h) return;
    stop_threads(h->threads);
    if (h->library) h->driver.unload(h->library);
    if (h->context) h->driver.release(h->ordinal);
    free(h->kernels);
    free(h);
}

static int has_device(int32_t type) {
    for (uint32_t i = 0; i < tables.info->num_targets; i++)
        if ((int32_t)tables.targets[i].device_type == type) return 1;
    return 0;
}

/* The caller's struct, as long as it says; members beyond that are 0. */
#define READ(type, into, from) \
    type into; \
    do { \
        if (!(from) || (from)->struct_size < sizeof(size_t)) return fail(MOEC_E_ABI, "%s: a " #type " without its struct_size", tables.info->layer); \
        memset(&into, 0, sizeof into); \
        memcpy(&into, (from), (from)->struct_size < sizeof into ? (from)->struct_size : sizeof into); \
    } while (0)

/* A flag asks for what this library does not have. */
#define READ_FLAGS(type, from, known) \
    do { \
        uint32_t others = (from).flags & ~(known); \
        if (others) return fail(MOEC_E_ABI, "%s: the flags %#x of " #type " are not known", tables.info->layer, others); \
    } while (0)

static moec_status create(const moec_options *given, moec_handle **out) {
    if (!out) return fail(MOEC_E_ARG, "create: no place for the handle");
    *out = NULL;
    READ(moec_options, options, given);
    READ_FLAGS(moec_options, options, 0u);
    moec_handle *h = calloc(1, sizeof *h);
    if (!h) return fail(MOEC_E_NOMEM, "out of host memory");
    h->tables = &tables;
    h->device = options.device;
    if (h->device.device_type == 0) {
        h->device.device_type = has_device(MOEC_CPU) ? MOEC_CPU : MOEC_CUDA_GPU;
        h->device.device_id = 0;
    }
    moec_status status = h->device.device_type == MOEC_CPU        ? create_cpu(h, &options)
                         : h->device.device_type == MOEC_CUDA_GPU ? create_gpu(h, &options)
                                                                  : fail(MOEC_E_ARG, "device type %d is not supported", h->device.device_type);
    if (status) {
        destroy(h);
        return status;
    }
    *out = h;
    return MOEC_OK;
}

static moec_status is_own(const moec_handle *h) {
    return h && h->tables == &tables ? MOEC_OK : fail(MOEC_E_ARG, "%s: a handle of another library, or none", tables.info->layer);
}

static const char *target_of(const moec_handle *h) { return is_own(h) ? NULL : h->target->name; }
