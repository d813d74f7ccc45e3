/* The handler of XLA's FFI, called as XLA calls it: what it answers, and what it says of what is wrong. FIRST is the layer. Arguments: `cpu`,
 * a folder with the inputs of the layer at T = 19; or `gpu`, T. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "xla.h"

#include <dlfcn.h>

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)
#define HANDLER(prefix) JOINED(__xla_ffi_, prefix)

const moec_api *GET_API(FIRST)(uint32_t wanted);
Error *HANDLER(FIRST)(CallFrame *frame);

static layer *l;
static call c;

/* Prints what the handler answers, and destroys it as XLA does. */
static void told(const char *what) {
    Error *error = HANDLER(FIRST)(&c.frame);
    printf("%s: %d %s\n", what, error ? error->code : 0, error ? error->text : "-");
    Error_Destroy_Args args = {24, NULL, error};
    if (error) destroy_error(&args);
    if (live) stop("an error that is not destroyed");
}

static void execute(void) { set_call(&c, l, EXECUTE, NULL); }

static void metadata(void) {
    Metadata described = {44, {0, NULL, -1, -1}, 77, 5};
    Metadata_Extension asked = {{32, METADATA, NULL}, &described};
    Extension unknown = {24, 1000, &asked.extension_base};
    execute();
    c.frame.args.size = c.frame.rets.size = 0;
    c.frame.extension_start = &asked.extension_base;
    told("metadata");
    printf("  version %d.%d in %zu bytes, traits %u, state %d\n", described.api_version.major_version, described.api_version.minor_version,
           described.api_version.struct_size, described.traits, (int)described.state_type_id);
    const int versions[][2] = {{0, 0}, {0, 1}, {0, 2}, {0, 9}, {1, 0}};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        api_of_xla.api_version.major_version = versions[i][0], api_of_xla.api_version.minor_version = versions[i][1];
        printf("XLA %d.%d, ", versions[i][0], versions[i][1]);
        told("metadata");
        printf("  version %d.%d\n", described.api_version.major_version, described.api_version.minor_version);
    }
    c.frame.api = NULL;
    told("metadata for an XLA that gives no table");
    printf("  version %d.%d\n", described.api_version.major_version, described.api_version.minor_version);
    described.struct_size = 32, described.api_version.minor_version = -1;
    told("metadata of an older XLA that gives no table");
    printf("  version %d.%d\n", described.api_version.major_version, described.api_version.minor_version);
    c.frame.api = &api_of_xla, described.struct_size = 44;
    described.traits = 77;
    c.frame.extension_start = &unknown;
    told("metadata behind an extension that is not known");
    printf("  traits %u\n", described.traits);
    described.struct_size = 32, described.traits = 77;
    told("metadata of an older XLA");
    asked.extension_base.struct_size = 24;
    told("an older metadata extension");
    printf("  traits %u\n", described.traits);
}

static void sizes(void) {
    execute();
    c.frame.struct_size = 120;
    told("an older call frame");
    c.frame.struct_size = 176;
    told("a newer call frame");
    c.args[0].struct_size = 40;
    told("an older buffer");
    execute();
    api_of_xla.struct_size = 184;
    told("an older table of functions");
    api_of_xla.struct_size = 192;
}

static void buffers(void) {
    int64_t flat[] = {19 * 32}, narrow[] = {19, l->shapes[0][1] - 1}, fewer[] = {18, l->shapes[0][1]}, none[] = {0, l->shapes[0][1]};
    const int types[] = {2, 3, S32, S64, F16, F64, BF16, C64, U8, 0, -1};
    execute();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        c.args[0].dtype = types[i];
        printf("type %d, ", types[i]);
        told("x");
    }
    execute(), c.args[0].rank = 1, c.args[0].dims = flat;
    told("x of one axis");
    execute(), c.args[0].rank = 0, c.args[0].dims = NULL;
    told("x without axes");
    execute(), c.args[0].dims = narrow;
    told("x with a short row");
    execute(), c.rets[0].dims = fewer;
    told("y with fewer rows than x");
    execute(), c.args[1].dims = none;
    told("a weight of another shape");
    execute(), c.args[0].data = (char *)c.args[0].data + 2;
    told("x that is not aligned");
    execute(), c.arg_types[1] = 2;
    told("an argument that is no buffer");
    execute(), c.ret_types[0] = 2;
    told("a result that is no buffer");
    execute(), c.frame.args.size--;
    told("an argument too few");
    execute(), c.frame.rets.size--;
    told("no workspace");
    execute(), c.frame.args.size = c.frame.rets.size = MOST_PARAMS;
    told("many arguments and results");
}

static void attributes(void) {
    execute(), set_sequence(&c, 5);
    told("S = 5 of T = 19");
    set_sequence(&c, 1);
    told("S = 1");
    int32_t narrow = -1;
    c.scalar.dtype = S32, c.scalar.value = &narrow;
    told("S = -1 in 32 bits");
    c.scalar.dtype = F32;
    told("S as a float");
    c.attr_types[0] = STRING;
    told("S as a string");
    c.name.len--;
    told("another attribute");
}

/* Not more than what is shown to be there is used of a workspace, wherever it begins. */
static void workspaces(const void *expected, size_t bytes) {
    void *y = l->tensors[l->info->num_inputs].data;
    char *memory = host_memory(l->workspace_bytes + 512);
    for (int shift = 0; shift < 256; shift += 85) {
        execute(), c.workspace_bytes += 255;
        c.rets[1].data = memory + shift;
        memset(memory, 0x55, l->workspace_bytes + 512);
        memset(y, 0xff, bytes);
        told("a workspace that may lie anywhere");
        if (memcmp(y, expected, bytes) != 0) stop("another result");
        for (size_t i = l->workspace_bytes + 256 + (size_t)shift; i < l->workspace_bytes + 512; i++)
            if (memory[i] != 0x55) stop("a run wrote behind its workspace");
    }
    execute(), c.workspace_bytes = 300;
    told("a workspace of 300 bytes");
    c.rets[1].data = memory + 1;
    told("a workspace of 300 bytes that is not aligned");
    c.workspace_bytes = 100;
    told("a workspace of 100 bytes that is not aligned");
    c.workspace_bytes = 0;
    told("a workspace of no bytes");
    execute(), c.rets[1].data = NULL;
    told("a workspace that is nowhere");
    execute(), c.rets[1].dtype = F32;
    told("a workspace of f32");
    free(memory);
}

static void on_cpu_of(const char *folder) {
    moec_device cpu = {MOEC_CPU, 0};
    l = layer_of(GET_API(FIRST), cpu, 19, 0, host_memory);
    moec_options options = on_cpu(0);
    must(l->api, l->api->create(&options, &l->handle), "create");
    read_params(l, folder);
    size_t bytes;
    void *y = output(l, &bytes), *expected = host_memory(bytes);
    moec_run_args args = args_of(l, NULL, NULL);
    must(l->api, l->api->run(l->handle, &args), "run");
    memcpy(expected, y, bytes);

    metadata();
    memset(y, 0, bytes);
    const int stages[] = {INSTANTIATE, PREPARE, INITIALIZE};
    for (int i = 0; i < 3; i++) {
        set_call(&c, l, stages[i], NULL);
        c.frame.args.size = c.frame.rets.size = 0;
        printf("stage %d, ", stages[i]);
        told("without buffers");
    }
    execute();
    told("a run");
    if (memcmp(y, expected, bytes) != 0) stop("another result");
    sizes();
    buffers();
    attributes();
    workspaces(expected, bytes);

    /* XLA's buffers without elements are nowhere. */
    int64_t none[] = {0, l->shapes[0][1]};
    execute();
    c.args[0].dims = c.rets[0].dims = none;
    c.args[0].data = c.rets[0].data = c.rets[1].data = NULL;
    c.workspace_bytes = 0;
    memset(y, 0x55, bytes);
    told("T = 0 without memory");
    for (size_t i = 0; i < bytes; i++)
        if (((char *)y)[i] != 0x55) stop("a run of T = 0 wrote");
    l->api->destroy(l->handle);
    free(expected);
    free_layer(l);
}

static void *driver;

static void *device_memory(size_t bytes) {
    int (*allocate)(uint64_t *, size_t);
    void *symbol = dlsym(driver, "cuMemAlloc_v2");
    memcpy(&allocate, &symbol, sizeof symbol);
    uint64_t address = 0;
    if (allocate(&address, bytes)) stop("cuMemAlloc");
    return (void *)(uintptr_t)address;
}

static void on_gpu(int64_t tokens) {
    moec_device gpu = {MOEC_CUDA_GPU, 0};
    context of = {(void *)0x77, 0}, other = {(void *)0x99, 1}, beyond = {NULL, 16}, absent = {NULL, 2};
    l = layer_of(GET_API(FIRST), gpu, tokens, 0, device_memory);
    setenv("MOCK_CAPTURE", "1", 1);
    printf("-- executed first, captured\n");
    set_call(&c, l, EXECUTE, &of);
    told("a run");
    unsetenv("MOCK_CAPTURE");
    printf("-- initialised\n");
    set_call(&c, l, INITIALIZE, &of);
    told("initialise");
    told("initialise again");
    setenv("MOCK_CAPTURE", "1", 1);
    printf("-- executed, captured\n");
    set_call(&c, l, EXECUTE, &of);
    told("a run");
    unsetenv("MOCK_CAPTURE");
    printf("-- executed on GPU 1\n");
    set_call(&c, l, EXECUTE, &other);
    told("a run");
    printf("-- errors\n");
    set_call(&c, l, EXECUTE, &beyond);
    told("GPU 16");
    set_call(&c, l, EXECUTE, &absent);
    told("GPU 2 of two");
    set_call(&c, l, EXECUTE, &of);
    setenv("MOCK_FAIL", "cuLaunchKernelEx 700", 1);
    told("a launch that fails");
    setenv("MOCK_FAIL", "cuCtxPushCurrent 700", 1);
    told("a context that cannot be entered");
    unsetenv("MOCK_FAIL");
    c.workspace_bytes = 100;
    told("a short workspace");
    set_call(&c, l, INITIALIZE, NULL);
    told("no stream");
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(arguments[1], "cpu")) return on_cpu_of(arguments[2]), 0;
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) stop(dlerror());
    on_gpu(strtoll(arguments[2], NULL, 10));
    return 0;
}
