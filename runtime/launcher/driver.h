/* The CUDA driver, by name: nothing of it is linked. Types and numbers are those of cuda.h. */

typedef int (*cu_call)(void); /* CUresult, of whatever arguments */

typedef struct {
    uint32_t id, pad;
    union { uint32_t words[16]; void *pointer; } value;
} cu_attribute; /* CUlaunchAttribute */

typedef struct {
    uint32_t grid[3], block[3], shared_bytes;
    void *stream;
    cu_attribute *attributes;
    uint32_t num_attributes;
} cu_config; /* CUlaunchConfig */

typedef struct {
    _Alignas(128) uint64_t words[16];
} cu_tensor_map; /* CUtensorMap */

enum { /* of CUresult */
    CU_NOT_FOUND = 500,
    CU_NO_BINARY = 209,
    CU_UNSUPPORTED_PTX = 222,
    CU_NO_JIT = 221,
    CU_JIT_DISABLED = 223,
    CU_CAPTURE_UNSUPPORTED = 900,
    CU_CAPTURE_INVALIDATED = 901,
    CU_CAPTURE_IMPLICIT = 906
};
enum { CU_CLUSTER = 4, CU_EARLY = 6 };      /* CUlaunchAttributeID */
enum { CU_MAJOR = 75, CU_MINOR = 76 };      /* CUdevice_attribute: compute capability */
enum { CU_DYNAMIC_SHARED = 8 };             /* CUfunction_attribute */
enum { LEAST_CUDA = 12000 };

typedef struct {
    int (*init)(unsigned);
    int (*version)(int *);
    int (*error_name)(int, const char **);
    int (*device)(int *, int);
    int (*device_attribute)(int *, int, int);
    int (*retain)(void **, int);
    int (*release)(int);
    int (*push)(void *);
    int (*pop)(void **);
    int (*load)(void **, const void *, void *, void *, unsigned, void *, void *, unsigned);
    int (*unload)(void *);
    int (*kernel)(void **, void *, const char *);
    int (*function)(void **, void *);
    int (*load_function)(void *);
    int (*set)(int, int, void *, int);
    int (*is_capturing)(void *, int *);
    int (*launch)(const cu_config *, void *, void **, void **);
    int (*encode)(cu_tensor_map *, int, uint32_t, void *, const uint64_t *, const uint64_t *, const uint32_t *, const uint32_t *, int, int, int, int);
} driver;

/* What has to be there, and what newer drivers have. */
static const struct {
    const char *name;
    size_t at;
    int needed;
} driver_calls[] = {
    {"cuInit", offsetof(driver, init), 1},
    {"cuDriverGetVersion", offsetof(driver, version), 1},
    {"cuGetErrorName", offsetof(driver, error_name), 1},
    {"cuDeviceGet", offsetof(driver, device), 1},
    {"cuDeviceGetAttribute", offsetof(driver, device_attribute), 1},
    {"cuDevicePrimaryCtxRetain", offsetof(driver, retain), 1},
    {"cuDevicePrimaryCtxRelease_v2", offsetof(driver, release), 1},
    {"cuCtxPushCurrent_v2", offsetof(driver, push), 1},
    {"cuCtxPopCurrent_v2", offsetof(driver, pop), 1},
    {"cuLibraryLoadData", offsetof(driver, load), 1},
    {"cuLibraryUnload", offsetof(driver, unload), 1},
    {"cuLibraryGetKernel", offsetof(driver, kernel), 1},
    {"cuKernelGetFunction", offsetof(driver, function), 1},
    {"cuFuncLoad", offsetof(driver, load_function), 0}, /* 12.4 */
    {"cuKernelSetAttribute", offsetof(driver, set), 1},
    {"cuStreamIsCapturing", offsetof(driver, is_capturing), 1},
    {"cuLaunchKernelEx", offsetof(driver, launch), 1},
    {"cuTensorMapEncodeTiled", offsetof(driver, encode), 0},
};

static const char *driver_word(const driver *d, int result) {
    const char *word = NULL;
    return d->error_name && !d->error_name(result, &word) && word ? word : "unknown error";
}

static moec_status open_driver(const moec_options *options, driver *d) {
    void *library = NULL;
    if (!options->get_proc) {
        library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            const char *why = dlerror();
            return fail(MOEC_E_NO_DRIVER, "no CUDA driver: %s (install NVIDIA's driver, or pass get_proc)", why ? why : "libcuda.so.1");
        }
    }
    const char *lacking = NULL;
    for (size_t i = 0; i < sizeof driver_calls / sizeof *driver_calls; i++) {
        const char *name = driver_calls[i].name;
        void *call = library ? dlsym(library, name) : options->get_proc(options->get_proc_user, name);
        if (!call && driver_calls[i].needed && !lacking) lacking = name;
        memcpy((char *)d + driver_calls[i].at, &call, sizeof call);
    }
    int version = 0;
    if (d->version) d->version(&version);
    if (lacking)
        return fail(MOEC_E_NO_DRIVER, "the CUDA driver (%d.%d) has no %s: at least %d.%d is needed", version / 1000, version % 1000 / 10, lacking,
                    LEAST_CUDA / 1000, LEAST_CUDA % 1000 / 10);
    if (version < LEAST_CUDA)
        return fail(MOEC_E_NO_DRIVER, "the CUDA driver is of %d.%d, at least %d.%d is needed: update it", version / 1000, version % 1000 / 10,
                    LEAST_CUDA / 1000, LEAST_CUDA % 1000 / 10);
    int result = d->init(0);
    if (result)
        return fail(MOEC_E_NO_DRIVER, "the CUDA driver cannot start: cuInit says %s (is there a GPU that this process may use?)", driver_word(d, result));
    return MOEC_OK;
}

static moec_status driver_failed(const driver *d, const char *call, int result) {
    if (result == CU_CAPTURE_UNSUPPORTED || result == CU_CAPTURE_INVALIDATED || result == CU_CAPTURE_IMPLICIT)
        return fail(MOEC_E_CAPTURE, "%s while a stream is being captured: create and bind before the capture", call);
    return fail(MOEC_CUDA(result), "%s: %s", call, driver_word(d, result));
}

/* The best image for a GPU of this compute capability (90 is 9.0): that of the nearest target, a cubin before PTX. */
static const moec_image *image_for(uint32_t capability, const moec_target **best) {
    const moec_image *found = NULL;
    uint64_t most = 0;
    for (uint32_t t = 0; t < tables.info->num_targets; t++) {
        const moec_target *target = &tables.targets[t];
        if (target->device_type != MOEC_CUDA_GPU) continue;
        for (uint32_t i = 0; i < target->num_images; i++) {
            const moec_image *image = &tables.images[target->images + i];
            int cubin = image->kind == IMAGE_CUBIN;
            int same_major = target->arch / 10 == capability / 10 && target->arch <= capability;
            /* Code of one architecture runs on that alone; PTX of any runs on later ones. */
            int runs = target->specific == 'a' ? target->arch == capability : target->specific == 'f' || cubin ? same_major : target->arch <= capability;
            uint64_t rank = (uint64_t)target->arch << 8 | (target->specific == 'a' ? 4u : target->specific == 'f' ? 2u : 0u) | (unsigned)cubin;
            if (runs && (!found || rank > most)) found = image, most = rank, *best = target;
        }
    }
    return found;
}
