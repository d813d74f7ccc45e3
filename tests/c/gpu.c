/* The launcher against a driver that runs nothing (mock_driver.c): what it asks of it, and what it says when that fails. FIRST is the layer.
 * Arguments: `life` or `errors`; the driver's file, or `-` for the one that the library finds; T. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "layer.h"

#include <dlfcn.h>

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(FIRST)(uint32_t wanted);

static void *driver;
static const char *lacking = "";
#define STREAM ((void *)0x77)

static void *found(void *user, const char *symbol) {
    if (user != &driver) stop("another user");
    return strcmp(symbol, lacking) ? dlsym(driver, symbol) : NULL;
}

static void *device_memory(size_t bytes) {
    int (*allocate)(uint64_t *, size_t);
    void *symbol = dlsym(driver, "cuMemAlloc_v2");
    memcpy(&allocate, &symbol, sizeof symbol);
    uint64_t address = 0;
    if (allocate(&address, bytes)) stop("cuMemAlloc");
    return (void *)(uintptr_t)address;
}

static void told(const moec_api *api, const char *what, moec_status status) {
    printf("%s: %s: %s\n", what, api->status_string(status), status ? last_text(api) : "-");
}

static moec_options on_gpu(int own) {
    moec_options options = {sizeof options, {MOEC_CUDA_GPU, 0}, NULL, NULL, NULL, NULL, 0, 0};
    if (!own) options.get_proc = found, options.get_proc_user = &driver;
    return options;
}

/* One run with bound weights, one without, one of T = 0. */
static void life(int own, int64_t tokens) {
    moec_device gpu = {MOEC_CUDA_GPU, 0};
    layer *l = layer_of(GET_API(FIRST), gpu, tokens, 0, device_memory);
    moec_options options = on_gpu(own);
    printf("-- create\n");
    must(l->api, l->api->create(&options, &l->handle), "create");
    printf("-- bind for %s\n", l->api->target(l->handle));
    moec_binding *binding;
    moec_bind_args weights = bind_args_of(l, STREAM);
    must(l->api, l->api->bind(l->handle, &weights, &binding), "bind");
    moec_run_args bound = args_of(l, binding, STREAM), unbound = args_of(l, NULL, NULL);
    setenv("MOCK_CAPTURE", "1", 1);
    printf("-- run at T = %d, captured\n", (int)tokens);
    must(l->api, l->api->check(l->handle, &bound), "check");
    must(l->api, l->api->run(l->handle, &bound), "run");
    unsetenv("MOCK_CAPTURE");
    printf("-- run on the default stream without a binding\n");
    must(l->api, l->api->run(l->handle, &unbound), "run");
    printf("-- update\n");
    must(l->api, l->api->update(l->handle, &bound), "update");
    printf("-- run at T = 0\n");
    l->shapes[0][0] = 0;
    must(l->api, l->api->run(l->handle, &bound), "run");
    printf("-- unbind\n");
    l->api->unbind(binding);
    printf("-- destroy\n");
    l->api->destroy(l->handle);
    free(l);
}

static const moec_api *api;

static void created(const char *what, const char *variable, const char *value, moec_options options) {
    moec_handle *handle = NULL;
    printf("-- %s\n", what);
    if (variable) setenv(variable, value, 1);
    moec_status status = api->create(&options, &handle);
    if (variable) unsetenv(variable);
    told(api, "create", status);
    if (status >= 0x10000) printf("  it is the driver's error %d\n", status & 0xffff);
    api->destroy(handle);
}

static void errors(int own) {
    api = GET_API(FIRST)(MOEC_ABI_VERSION);
    moec_options options = on_gpu(own);
    created("another architecture", "MOCK_ARCH", "75", options);
    created("an old driver", "MOCK_VERSION", "11080", options);
    created("a driver that cannot start", "MOCK_FAIL", "cuInit 100", options);
    created("PTX that is newer than the driver", "MOCK_FAIL", "cuLibraryLoadData 222", options);
    created("no compiler of PTX", "MOCK_FAIL", "cuLibraryLoadData 221", options);
    created("a compiler of PTX that is disabled", "MOCK_FAIL", "cuLibraryLoadData 223", options);
    created("an image without code for the GPU", "MOCK_FAIL", "cuLibraryLoadData 209", options);
    created("another refusal", "MOCK_FAIL", "cuLibraryLoadData 700", options);
    created("no context", "MOCK_FAIL", "cuDevicePrimaryCtxRetain 700", options);
    created("a context that cannot be entered", "MOCK_FAIL", "cuCtxPushCurrent 700", options);
    created("an image without a kernel", "MOCK_FAIL", "cuLibraryGetKernel 500", options);
    created("a kernel without a function", "MOCK_FAIL", "cuKernelGetFunction 700", options);
    created("a function that cannot be loaded", "MOCK_FAIL", "cuFuncLoad 700", options);
    created("a stream that is being captured", "MOCK_CAPTURE", "1", options);
    options.device.device_id = 2;
    created("GPU 2 of two", NULL, NULL, options);
    options = on_gpu(own);
    if (!own) {
        lacking = "cuLibraryLoadData";
        created("a driver without cuLibraryLoadData", "MOCK_VERSION", "11040", options);
        lacking = "cuFuncLoad";
        created("a driver without cuFuncLoad, which may lack", NULL, NULL, options);
        lacking = "";
    }

    moec_device gpu = {MOEC_CUDA_GPU, 0}, second = {MOEC_CUDA_GPU, 1}, managed = {13, 0}, cpu = {MOEC_CPU, 0};
    printf("-- GPU 0 and its tensors\n");
    layer *l = layer_of(GET_API(FIRST), gpu, 17, 0, device_memory);
    must(api, api->create(&options, &l->handle), "create");
    moec_run_args args = args_of(l, NULL, STREAM);
    printf("-- tensors\n");
    l->tensors[0].device = second;
    told(api, "x on another GPU", api->run(l->handle, &args));
    l->tensors[0].device = cpu;
    told(api, "x on the CPU", api->run(l->handle, &args));
    l->tensors[0].device = managed;
    told(api, "x in managed memory", api->check(l->handle, &args));
    l->tensors[0].device = gpu;
    setenv("MOCK_FAIL", "cuLaunchKernelEx 700", 1);
    told(api, "a launch that fails", api->run(l->handle, &args));
    setenv("MOCK_FAIL", "cuTensorMapEncodeTiled 700", 1);
    told(api, "a tensor map that cannot be encoded", api->run(l->handle, &args));
    unsetenv("MOCK_FAIL");
    moec_bind_args weights = bind_args_of(l, STREAM);
    moec_binding *binding;
    setenv("MOCK_CAPTURE", "1", 1);
    told(api, "bind while a stream is being captured", api->bind(l->handle, &weights, &binding));
    unsetenv("MOCK_CAPTURE");
    setenv("MOCK_FAIL", "cuStreamIsCapturing 906", 1);
    told(api, "bind while another stream is", api->bind(l->handle, &weights, &binding));
    unsetenv("MOCK_FAIL");
    weights.prepared_bytes--;
    if (l->prepared_bytes) told(api, "prepared memory that is short by a byte", api->bind(l->handle, &weights, &binding));
    printf("-- destroy\n");
    api->destroy(l->handle);
    free(l);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    int own = !strcmp(arguments[2], "-");
    if (!strcmp(arguments[1], "absent")) {
        moec_options options = on_gpu(1);
        api = GET_API(FIRST)(MOEC_ABI_VERSION);
        created("no driver", NULL, NULL, options);
        return 0;
    }
    driver = dlopen(own ? "libcuda.so.1" : arguments[2], RTLD_NOW);
    if (!driver) stop(dlerror());
    if (!strcmp(arguments[1], "life")) life(own, strtoll(arguments[3], NULL, 10));
    if (!strcmp(arguments[1], "errors")) errors(own);
    return 0;
}
