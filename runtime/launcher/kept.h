/* A handle for each device, made at the first call there: of callers that keep none themselves. */

enum { KEPT_DEVICES = 16 };
static _Atomic(moec_handle *) kept_handles[2 * KEPT_DEVICES];

static moec_status kept_handle(moec_device device, const moec_handle **out) {
    int is_cpu = device.device_type != MOEC_CUDA_GPU;
    if (is_cpu) device.device_type = MOEC_CPU, device.device_id = 0;
    if (device.device_id < 0 || device.device_id >= KEPT_DEVICES)
        return fail(MOEC_E_ARG, "device %d is beyond %d", device.device_id, KEPT_DEVICES - 1);
    _Atomic(moec_handle *) *place = &kept_handles[2 * device.device_id + is_cpu];
    moec_handle *none = NULL, *made;
    if ((*out = atomic_load(place))) return MOEC_OK;
    moec_options options = {sizeof options, device, NULL, NULL, NULL, NULL, 0, 0};
    moec_status status = create(&options, &made);
    if (status) return status;
    if (atomic_compare_exchange_strong(place, &none, made)) {
        *out = made;
    } else {
        destroy(made);
        *out = none;
    }
    return MOEC_OK;
}

/* A workspace that may lie anywhere: from its first aligned byte on. */
static void give_workspace(moec_run_args *run, void *memory, size_t bytes) {
    size_t skipped = (size_t)(-(uintptr_t)memory % WORKSPACE_ALIGN);
    run->workspace = (char *)memory + skipped;
    run->workspace_bytes = bytes > skipped ? bytes - skipped : 0;
}
