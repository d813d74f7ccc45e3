/* A run allocates nothing, on whichever thread; where an allocation fails, create and bind say so and keep nothing. FIRST is the layer;
 * glibc. */
#include "layer.h"

#include <stdatomic.h>

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(FIRST)(uint32_t wanted);

/* glibc's own, behind the names that this program gives a meaning. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void __libc_free(void *memory);

static atomic_long calls, live;
/* The allocation that fails, counted from 1; 0 for none. */
static atomic_long failing;

static int fails(void) {
    atomic_fetch_add(&calls, 1);
    long left = atomic_load(&failing);
    return left > 0 && atomic_fetch_sub(&failing, 1) == 1;
}
static void *counted(void *memory) {
    if (memory) atomic_fetch_add(&live, 1);
    return memory;
}
void *malloc(size_t bytes) { return fails() ? NULL : counted(__libc_malloc(bytes)); }
void *calloc(size_t count, size_t bytes) { return fails() ? NULL : counted(__libc_calloc(count, bytes)); }
void *realloc(void *memory, size_t bytes) {
    if (fails()) return NULL;
    void *moved = __libc_realloc(memory, bytes);
    return memory ? moved : counted(moved);
}
void free(void *memory) {
    atomic_fetch_add(&calls, 1);
    if (memory) atomic_fetch_sub(&live, 1);
    __libc_free(memory);
}

/* A driver that launches nothing. */
static int zero(void) { return 0; }
static int version(int *version) { return *version = 13000, 0; }
static int attribute(int *value, int which, int device) { return (void)device, *value = which == 75 ? 8 : 0, 0; }
static int handle_of(void **handle) { return *handle = (void *)1, 0; }
static void *driver(void *user, const char *symbol) {
    union { int (*zero)(void); int (*version)(int *); int (*attribute)(int *, int, int); int (*handle_of)(void **); void *any; } call = {zero};
    (void)user;
    if (!strcmp(symbol, "cuDriverGetVersion")) call.version = version;
    if (!strcmp(symbol, "cuDeviceGetAttribute")) call.attribute = attribute;
    if (!strcmp(symbol, "cuDevicePrimaryCtxRetain") || !strcmp(symbol, "cuLibraryLoadData") || !strcmp(symbol, "cuLibraryGetKernel") ||
        !strcmp(symbol, "cuKernelGetFunction"))
        call.handle_of = handle_of;
    return call.any;
}

static void runs(const char *what, moec_options options) {
    for (int64_t tokens = 1; tokens <= 300; tokens += tokens == 1 ? 16 : 283) {
        layer *l = layer_of(GET_API(FIRST), options.device, tokens, 0, host_memory);
        must(l->api, l->api->create(&options, &l->handle), "create");
        moec_binding *binding;
        moec_bind_args weights = bind_args_of(l, NULL);
        must(l->api, l->api->bind(l->handle, &weights, &binding), "bind");
        moec_run_args args[] = {args_of(l, binding, NULL), args_of(l, NULL, NULL)};
        for (int i = 0; i < 2; i++) must(l->api, l->api->run(l->handle, &args[i]), "run");
        long before = atomic_load(&calls);
        for (int i = 0; i < 100; i++) {
            must(l->api, l->api->check(l->handle, &args[i % 2]), "check");
            must(l->api, l->api->run(l->handle, &args[i % 2]), "run");
            must(l->api, l->api->update(l->handle, &args[i % 2]), "update");
        }
        if (atomic_load(&calls) != before) stop("a run allocates");
        printf("%s, T = %d: nothing\n", what, (int)tokens);
        l->api->unbind(binding);
        l->api->destroy(l->handle);
        free_layer(l);
    }
}

/* Each allocation of `create` and of `bind` fails in turn. */
static void failures(const char *what, moec_options options) {
    layer *l = layer_of(GET_API(FIRST), options.device, 17, 0, host_memory);
    moec_handle *handle;
    moec_bind_args weights = bind_args_of(l, NULL);
    moec_binding *binding;
    for (long n = 1;; n++) {
        long before = atomic_load(&live);
        atomic_store(&failing, n);
        moec_status status = l->api->create(&options, &handle);
        if (!status) status = l->api->bind(handle, &weights, &binding);
        else if (handle) stop("an error, and a handle");
        int is_over = atomic_exchange(&failing, 0) > 0;
        if (is_over && status) stop("an error without a failure");
        if (!is_over) printf("%s, allocation %ld fails: %s: %s\n", what, n, l->api->status_string(status), last_text(l->api));
        if (!status) l->api->unbind(binding);
        l->api->destroy(handle);
        if (atomic_load(&live) != before) stop("memory is kept");
        if (is_over) break;
    }
    free_layer(l);
}

int main(void) {
    moec_options gpu = {sizeof gpu, {MOEC_CUDA_GPU, 0}, driver, NULL, NULL, NULL, 0, 0};
    moec_options cpu[] = {on_cpu(1), on_cpu(2), on_cpu(4)};
    runs("1 thread", cpu[0]);
    runs("2 threads", cpu[1]);
    runs("4 threads", cpu[2]);
    runs("a GPU", gpu);
    failures("1 thread", cpu[0]);
    failures("a GPU", gpu);
    return 0;
}
