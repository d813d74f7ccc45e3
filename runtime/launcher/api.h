/* The table. */

static const moec_info *info(void) { return tables.info; }

static const char *manifest(const char *target) {
    const moec_target *named = target_named(target);
    return named ? named->manifest : NULL;
}

static moec_status values_of(const moec_dims *given, int64_t *values) {
    READ(moec_dims, dims, given);
    return common_values(dims.tokens, dims.sequence_tokens, values);
}

static moec_status fail_short(int64_t needed) {
    return fail(MOEC_E_WORKSPACE, "%s: even a part needs %" PRId64 " bytes of workspace, [tokens] workspace of the spec allows %" PRId64, tables.info->layer,
                needed, tables.workspace_limit);
}

static moec_status workspace_size(const char *target, const moec_dims *dims, size_t *bytes, size_t *align) {
    int64_t values[MAX_VALUES];
    moec_status status = values_of(dims, values);
    if (status) return status;
    if (target && !target_named(target)) return MOEC_E_ARG;
    int64_t tokens = values[0], sequence_tokens = values[1], most = 0;
    for (uint32_t i = 0; i < tables.info->num_targets && tokens > 0; i++) {
        const moec_target *one = &tables.targets[i];
        if (target && strcmp(one->name, target) != 0) continue;
        int64_t needed, part = part_tokens(one, tokens, sequence_tokens, tables.workspace_limit, values, &needed);
        if (part == 0) return fail_short(needed);
        /* Not what its parts need, which is less for some longer batches: a workspace for the longest serves all. */
        if (part < tokens) needed = tables.workspace_limit;
        needed += (int64_t)prepared_bytes(one);
        if (needed > most) most = needed;
    }
    if (bytes) *bytes = (size_t)most;
    if (align) *align = WORKSPACE_ALIGN;
    return MOEC_OK;
}

static moec_status prepared_size(const char *target, size_t *bytes, size_t *align) {
    if (target && !target_named(target)) return MOEC_E_ARG;
    size_t most = 0;
    for (uint32_t i = 0; i < tables.info->num_targets; i++) {
        const moec_target *one = &tables.targets[i];
        if ((!target || strcmp(one->name, target) == 0) && prepared_bytes(one) > most) most = prepared_bytes(one);
    }
    if (bytes) *bytes = most;
    if (align) *align = WORKSPACE_ALIGN;
    return MOEC_OK;
}

/* Behind `*count` others. */
static void add_launches(const moec_target *target, int64_t *values, moec_launch *launches, uint32_t capacity, size_t size, uint32_t *count) {
    const moec_regime *regime = regime_of(target, values);
    for (uint32_t i = 0, before = *count; i < regime->num_steps; i++) {
        const moec_step *step = &tables.steps[regime->steps + i];
        const moec_kernel *kernel = &tables.kernels[target->kernels + step->kernel];
        int64_t grid = values[step->grid];
        if (grid == 0) continue;
        if (launches && *count < capacity) {
            moec_launch one = {sizeof one, kernel->name, {(uint32_t)grid, 1, 1}, {kernel->threads, 1, 1}, {kernel->cluster, 1, 1}, kernel->dynamic_shared_bytes,
                               step->early && *count > before ? MOEC_LAUNCH_EARLY : 0};
            one.struct_size = size;
            memcpy((char *)launches + *count * size, &one, size < sizeof one ? size : sizeof one);
        }
        ++*count;
    }
}

static moec_status plan(const char *target, const moec_dims *dims, moec_launch *launches, uint32_t capacity, uint32_t *count) {
    int64_t values[MAX_VALUES];
    moec_status status = values_of(dims, values);
    if (status) return status;
    const moec_target *named = target_named(target);
    if (!named) return MOEC_E_ARG;
    if (!count) return fail(MOEC_E_ARG, "plan: no place for the count");
    /* The caller's launches are as long as the first one says. */
    size_t size = launches && capacity > 0 ? launches->struct_size : sizeof *launches;
    if (size < sizeof(size_t)) return fail(MOEC_E_ABI, "plan: launches without the struct_size of the first");
    *count = 0;
    if (values[0] == 0) return MOEC_OK;
    int64_t tokens = values[0], sequence_tokens = values[1], needed;
    int64_t part = part_tokens(named, tokens, sequence_tokens, tables.workspace_limit, values, &needed);
    if (part == 0) return fail_short(needed);
    for (int64_t first = 0; first < tokens; first += part) {
        int64_t of = tokens - first < part ? tokens - first : part;
        workspace_of(named, of, part < tokens ? part_sequence(of, sequence_tokens) : sequence_tokens, values);
        add_launches(named, values, launches, capacity, size, count);
    }
    return MOEC_OK;
}

static moec_status observed(const char *target, const moec_dims *dims, const char *name, size_t *offset, size_t *bytes) {
    int64_t values[MAX_VALUES];
    moec_status status = values_of(dims, values);
    if (status) return status;
    const moec_target *named = target_named(target);
    if (!named || !name) return named ? fail(MOEC_E_ARG, "observed: no name") : MOEC_E_ARG;
    if (values[0] == 0) return fail(MOEC_E_SHAPE, "a run without tokens observes nothing");
    if (workspace_of(named, values[0], values[1], values) > tables.workspace_limit)
        return fail(MOEC_E_SHAPE, "%s: T = %" PRId64 " is run in parts, of which nothing is observed", tables.info->layer, values[0]);
    const moec_regime *regime = regime_of(named, values);
    for (uint32_t i = 0; i < regime->num_observed; i++) {
        const moec_observed *one = &tables.observed[regime->observed + i];
        if (strcmp(one->name, name) != 0) continue;
        if (offset) *offset = (size_t)values[one->offset];
        if (bytes) *bytes = (size_t)values[one->bytes];
        return MOEC_OK;
    }
    return fail(MOEC_E_ARG, "%s observes no %s", tables.info->layer, name);
}

static const moec_api api = {
    sizeof(moec_api), MOEC_ABI_VERSION, 0, info, manifest, status_string, last_error, workspace_size, prepared_size, plan, observed,
    create, destroy, target_of, bind, unbind, check, run_layer, update,
};

MOEC_EXPORT const moec_api *MOEC_GET_API(uint32_t wanted) {
    if (wanted >> 16 != MOEC_ABI_MAJOR || (wanted & 0xffff) > MOEC_ABI_MINOR) {
        fail(MOEC_E_ABI, "ABI %u.%u is wanted, the library has %u.%u: link it again with a moec of that version", wanted >> 16, wanted & 0xffff,
             MOEC_ABI_MAJOR, MOEC_ABI_MINOR);
        return NULL;
    }
    return &api;
}
