/* What a caller can do wrong on a CPU: each mistake with its status and its text. FIRST is the layer, SECOND another one. Arguments: a
 * folder with the inputs of FIRST at T = 19. */
#include "layer.h"

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(FIRST)(uint32_t wanted);
const moec_api *GET_API(SECOND)(uint32_t wanted);

enum { TOKENS = 19 };
static layer *l, *other;
static const moec_api *api;

static void told(const char *what, moec_status status) {
    printf("%s: %s: %s\n", what, api->status_string(status), status ? last_text(api) : "-");
}

/* `check` and `run` answer the same. */
static void tried(const char *what, const moec_handle *handle, const moec_run_args *args) {
    moec_status checked = api->check(handle, args);
    char text[512];
    api->last_error(text, sizeof text);
    moec_status ran = api->run(handle, args);
    told(what, ran);
    if (checked != ran || (ran && strcmp(text, last_text(api)) != 0)) printf("  but check says %s: %s\n", api->status_string(checked), text);
}

/* A run whose tensor number `at` is another. */
static void with_tensor(const char *what, uint32_t at, moec_tensor tensor) {
    const moec_tensor *params[MOST_PARAMS];
    memcpy(params, l->params, sizeof params);
    params[at] = &tensor;
    moec_run_args args = args_of(l, NULL, NULL);
    args.params = params;
    tried(what, l->handle, &args);
}

static void tensors(void) {
    uint32_t y = l->info->num_inputs, weight = y + l->info->num_outputs;
    moec_tensor x = l->tensors[0];
    int64_t short_row[] = {TOKENS, x.shape[1] - 1}, flat[] = {TOKENS * x.shape[1]}, fewer[] = {TOKENS - 1, x.shape[1]};
    int64_t gaps[] = {2 * x.shape[1], 1}, dense[] = {x.shape[1], 1}, columns[] = {1, TOKENS};
    moec_tensor t = x;
    t.shape = short_row;
    with_tensor("x with a short row", 0, t);
    t = x, t.shape = flat, t.ndim = 1;
    with_tensor("x of one axis", 0, t);
    t = l->tensors[y], t.shape = fewer;
    with_tensor("y with fewer rows than x", y, t);
    t = x, t.dtype.code = 4, t.dtype.bits = 16;
    with_tensor("x of bf16", 0, t);
    t = x, t.dtype.code = 1;
    with_tensor("x of unsigned integers", 0, t);
    t = x, t.dtype.lanes = 4;
    with_tensor("x of vectors", 0, t);
    t = x, t.strides = gaps;
    with_tensor("x with gaps", 0, t);
    t = x, t.strides = columns;
    with_tensor("x by columns", 0, t);
    t = x, t.strides = dense;
    with_tensor("x with the strides that it has", 0, t);
    t = x, t.byte_offset = 4;
    with_tensor("x that is not aligned", 0, t);
    t = x, t.data = (char *)x.data + 4, t.byte_offset = (uint64_t)-4;
    with_tensor("x that is aligned by its offset", 0, t);
    t = x, t.device.device_type = MOEC_CUDA_GPU;
    with_tensor("x on a GPU", 0, t);
    t = x, t.data = NULL;
    with_tensor("x without data", 0, t);
    t = x, t.shape = NULL;
    with_tensor("x without a shape", 0, t);
    t = l->tensors[weight], t.shape = short_row, t.ndim = 2;
    with_tensor("a weight of another shape", weight, t);

    const moec_tensor *params[MOST_PARAMS];
    moec_run_args args = args_of(l, NULL, NULL);
    memcpy(params, l->params, sizeof params);
    args.params = params;
    params[0] = NULL;
    tried("no x", l->handle, &args);
    params[0] = l->params[0], params[y] = NULL;
    tried("no y", l->handle, &args);
    args = args_of(l, NULL, NULL), args.num_params--;
    tried("a tensor too few", l->handle, &args);
    args = args_of(l, NULL, NULL), args.params = NULL;
    tried("no tensors", l->handle, &args);
}

static void workspace(void) {
    moec_run_args args = args_of(l, NULL, NULL);
    args.workspace_bytes = 255;
    tried("a workspace of 255 bytes", l->handle, &args);
    /* One that is not enough for the batch, and enough for its parts. */
    size_t bytes;
    void *y = output(l, &bytes), *whole = host_memory(bytes);
    args = args_of(l, NULL, NULL);
    must(api, api->run(l->handle, &args), "run");
    memcpy(whole, y, bytes);
    memset(y, 0xff, bytes);
    args.workspace_bytes--;
    tried("a workspace that is short by a byte", l->handle, &args);
    if (memcmp(whole, y, bytes) != 0) stop("another result by parts");
    free(whole);
    args = args_of(l, NULL, NULL), args.workspace_bytes = SIZE_MAX;
    tried("a workspace as long as can be said", l->handle, &args);
    args = args_of(l, NULL, NULL), args.workspace = NULL;
    tried("no workspace", l->handle, &args);
    args = args_of(l, NULL, NULL), args.workspace = (char *)args.workspace + 16;
    tried("a workspace that is not aligned", l->handle, &args);
}

/* As `tensors`, but T is another and no tensor lies anywhere. */
static void batches(void) {
    moec_run_args args = args_of(l, NULL, NULL);
    args.sequence_tokens = 5;
    tried("S = 5 of T = 19", l->handle, &args);
    args.sequence_tokens = -19;
    tried("S = -19 of T = 19", l->handle, &args);
    args.sequence_tokens = 1;
    tried("S = 1 of T = 19", l->handle, &args);
    int64_t extents[] = {0, l->shapes[0][1]};
    const moec_tensor *params[MOST_PARAMS];
    memcpy(params, l->params, sizeof params);
    moec_tensor x = l->tensors[0];
    x.shape = extents, params[0] = &x;
    args = args_of(l, NULL, NULL), args.params = params;
    extents[0] = l->info->max_tokens + 1;
    tried("T beyond the most tokens", l->handle, &args);
    extents[0] = -1;
    tried("T = -1", l->handle, &args);
    size_t bytes;
    char *y = output(l, &bytes);
    memset(y, 0x55, bytes);
    extents[0] = 0;
    args.workspace = NULL, args.workspace_bytes = 0;
    x.data = NULL;
    tried("T = 0 without memory", l->handle, &args);
    args.sequence_tokens = 1;
    tried("T = 0, S = 1", l->handle, &args);
    for (size_t i = 0; i < bytes; i++)
        if (y[i] != 0x55) stop("a run of T = 0 wrote");
}

static void structs(void) {
    moec_handle *handle;
    moec_options options = on_cpu(1);
    options.struct_size = 0;
    told("options without their size", api->create(&options, &handle));
    told("no options", api->create(NULL, &handle));
    told("no place for the handle", api->create(&options, NULL));
    /* A caller who knows no more than the device: its own threads, and none of the rest. */
    struct { size_t struct_size; moec_device device; void *junk[6]; } older = {16, {MOEC_CPU, 0}, {&older, &older, &older, &older, &older, &older}};
    told("options of an older caller", api->create((const moec_options *)(const void *)&older, &handle));
    moec_run_args args = args_of(l, NULL, NULL);
    tried("a run on them", handle, &args);
    /* One who knows more than this library, and asks for nothing of it. */
    struct { moec_options known; void *unknown[4]; } newer = {on_cpu(1), {NULL, NULL, NULL, NULL}};
    newer.known.struct_size = sizeof newer;
    api->destroy(handle);
    told("options of a newer caller", api->create(&newer.known, &handle));
    api->destroy(handle);

    args.struct_size = 0;
    tried("a run without its size", l->handle, &args);
    tried("no run", l->handle, NULL);
    /* `sequence_tokens` is the last member: a caller without it has one sequence. */
    args = args_of(l, NULL, NULL), args.struct_size = offsetof(moec_run_args, sequence_tokens), args.sequence_tokens = 5;
    tried("a run of an older caller", l->handle, &args);
    moec_dims dims = {0, TOKENS, 0};
    size_t bytes;
    told("dims without their size", api->workspace_size(NULL, &dims, &bytes, NULL));
    options = on_cpu(1), options.flags = 1;
    told("options with a flag", api->create(&options, &handle));
    args = args_of(l, NULL, NULL), args.flags = 2;
    tried("a run with a flag", l->handle, &args);
    moec_bind_args weights = bind_args_of(l, NULL);
    moec_binding *binding;
    weights.flags = 4;
    told("weights with a flag", api->bind(l->handle, &weights, &binding));
}

static void handles(void) {
    moec_run_args args = args_of(l, NULL, NULL);
    moec_binding *binding;
    moec_handle *second;
    tried("another library's handle", other->handle, &args);
    tried("no handle", NULL, &args);
    printf("target of another library's handle: %s\n", api->target(other->handle) ? "there" : "null");
    moec_options options = on_cpu(1);
    must(api, api->create(&options, &second), "create");
    moec_bind_args weights = bind_args_of(l, NULL);
    must(api, api->bind(second, &weights, &binding), "bind");
    args = args_of(l, binding, NULL);
    tried("a binding of another handle", l->handle, &args);
    args.num_params = l->info->num_params;
    tried("a binding and weights too", second, &args);
    args.num_params -= l->info->num_weights;
    tried("a binding of this handle", second, &args);
    api->unbind(binding);

    told("weights for another library's handle", api->bind(other->handle, &weights, &binding));
    told("no place for the binding", api->bind(l->handle, &weights, NULL));
    weights.num_weights++;
    told("a weight too many", api->bind(l->handle, &weights, &binding));
    weights = bind_args_of(other, NULL);
    weights.num_weights = l->info->num_weights;
    told("another layer's weights", api->bind(l->handle, &weights, &binding));
    weights = bind_args_of(l, NULL), weights.struct_size = 4;
    told("weights without their size", api->bind(l->handle, &weights, &binding));
    weights = bind_args_of(l, NULL), weights.prepared = (void *)(uintptr_t)16;
    told("prepared memory that is not aligned", api->bind(l->handle, &weights, &binding));
    api->destroy(second);
    api->destroy(NULL);
    api->unbind(NULL);
}

static void some_blocks(void *user, uint64_t count, moec_body body, void *arg) {
    (void)user;
    if (count > 1) body(arg, 1, count);
}

static void devices(void) {
    moec_handle *handle;
    moec_options options = on_cpu(1025);
    told("1025 threads", api->create(&options, &handle));
    options = on_cpu(1), options.device.device_type = 7;
    told("a device of type 7", api->create(&options, &handle));
    options = on_cpu(1), options.parallel_for = some_blocks;
    must(api, api->create(&options, &handle), "create");
    moec_run_args args = args_of(l, NULL, NULL);
    told("a parallel_for that calls nothing, check", api->check(handle, &args));
    told("a parallel_for that calls nothing, run", api->run(handle, &args));
    api->destroy(handle);
    options.threads = 2;
    must(api, api->create(&options, &handle), "create");
    told("one that makes one call of two, run", api->run(handle, &args));
    api->destroy(handle);
}

static void queries(void) {
    moec_dims dims = {sizeof dims, TOKENS, 0};
    size_t bytes, offset;
    uint32_t count;
    told("a target that is not there", api->workspace_size("sm_75", &dims, &bytes, NULL));
    told("prepared memory of it", api->prepared_size("sm_75", &bytes, NULL));
    told("a plan of it", api->plan("sm_75", &dims, NULL, 0, &count));
    told("a plan without a place for the count", api->plan(NULL, &dims, NULL, 0, NULL));
    printf("manifest of it: %s\n", api->manifest("sm_75") ? "there" : "null");
    told("what is not observed", api->observed(NULL, &dims, "route.nothing", &offset, &bytes));
    told("no name", api->observed(NULL, &dims, NULL, &offset, &bytes));
    told("what is observed", api->observed(NULL, &dims, "route.experts", &offset, &bytes));
    dims.tokens = 0;
    told("what T = 0 observes", api->observed(NULL, &dims, "route.experts", &offset, &bytes));
    must(api, api->workspace_size(NULL, &dims, &bytes, NULL), "workspace_size");
    must(api, api->plan(NULL, &dims, NULL, 0, &count), "plan");
    printf("T = 0: %zu bytes, %u launches\n", bytes, count);
    const uint32_t wanted[] = {MOEC_ABI_VERSION + 1, (MOEC_ABI_MAJOR + 1) << 16, 0};
    for (int i = 0; i < 3; i++) {
        const moec_api *table = GET_API(FIRST)(wanted[i]);
        printf("a table of version %u.%u: %s: %s\n", wanted[i] >> 16, wanted[i] & 0xffff, table ? "there" : "null", last_text(api));
    }
    char text[8];
    size_t length = api->last_error(text, sizeof text);
    printf("its first letters: %s, of %s\n", text, length == strlen(last_text(api)) ? "all" : "another number");
    printf("status 99: %s, status 0x10001: %s\n", api->status_string(99), api->status_string(0x10001));
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    moec_device cpu = {MOEC_CPU, 0};
    moec_options options = on_cpu(1);
    l = layer_of(GET_API(FIRST), cpu, TOKENS, 0, host_memory);
    other = layer_of(GET_API(SECOND), cpu, TOKENS, 0, host_memory);
    api = l->api;
    read_params(l, arguments[1]);
    must(api, api->create(&options, &l->handle), "create");
    must(other->api, other->api->create(&options, &other->handle), "create");
    tensors();
    workspace();
    batches();
    structs();
    handles();
    devices();
    queries();
    api->destroy(l->handle);
    other->api->destroy(other->handle);
    free_layer(l);
    free_layer(other);
    return 0;
}
