/* Many threads on one handle: results are those of one thread alone, handles come and go, and callers may be nested. FIRST is the layer,
 * SECOND another one. Arguments: a folder with the inputs of both at T = 19, and how often a handle is made. Run under sanitizers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "layer.h"

#include <pthread.h>

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(FIRST)(uint32_t wanted);
const moec_api *GET_API(SECOND)(uint32_t wanted);

enum { TOKENS = 19, FEW = 8, MORE_THAN_SLOTS = 80 };

/* A caller: the layer with memory of its own, but for the weights; and what it should say. */
typedef struct {
    layer *of;
    const moec_handle *handle;
    const moec_binding *binding;
    const void *expected;
    pthread_barrier_t *start;
    int runs, number;
} caller;

static layer *copy_of(const layer *l) {
    moec_device cpu = {MOEC_CPU, 0};
    layer *copy = layer_of(l->api == GET_API(FIRST)(MOEC_ABI_VERSION) ? GET_API(FIRST) : GET_API(SECOND), cpu, TOKENS, 0, host_memory);
    for (uint32_t i = 0; i < l->info->num_params; i++) memcpy(copy->tensors[i].data, l->tensors[i].data, l->bytes[i]);
    return copy;
}

static void run_and_compare(const caller *c) {
    size_t bytes;
    void *y = output(c->of, &bytes);
    memset(y, 0xff, bytes);
    moec_run_args args = args_of(c->of, c->binding, NULL);
    must(c->of->api, c->of->api->run(c->handle, &args), "run");
    if (memcmp(y, c->expected, bytes) != 0) stop("another result");
}

static void *call(void *me) {
    const caller *c = me;
    pthread_barrier_wait(c->start);
    for (int i = 0; i < c->runs; i++) {
        run_and_compare(c);
        /* The text of an error is the thread's own. */
        if (i == 0) {
            moec_run_args wrong = args_of(c->of, c->binding, NULL);
            char text[32];
            wrong.workspace_bytes = (size_t)c->number;
            snprintf(text, sizeof text, " has %d bytes", c->number);
            if (c->of->api->run(c->handle, &wrong) != MOEC_E_WORKSPACE || !strstr(last_text(c->of->api), text)) stop("another thread's error");
        }
    }
    return NULL;
}

static void together(const layer *l, const moec_handle *handle, const moec_binding *binding, const void *expected, int count, int runs) {
    pthread_t threads[MORE_THAN_SLOTS];
    caller callers[MORE_THAN_SLOTS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        caller one = {copy_of(l), handle, i % 2 ? binding : NULL, expected, &start, runs, i + 1};
        callers[i] = one;
        if (pthread_create(&threads[i], NULL, call, &callers[i])) stop("no thread");
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        free_layer(callers[i].of);
    }
    pthread_barrier_destroy(&start);
}

/* The caller's own threads: one, which runs another layer between the parts. */
static void nested(void *user, uint64_t count, moec_body body, void *arg) {
    for (uint64_t done = 0; done < count;) {
        uint64_t next = count - done < 3 ? count : done + (count - done + 1) / 2;
        run_and_compare(user);
        body(arg, done, next);
        done = next;
    }
}

/* `expected` is what one thread says, without helpers. */
static layer *opened(moec_get_api_fn get_api, const char *folder, void **expected) {
    moec_device cpu = {MOEC_CPU, 0};
    layer *l = layer_of(get_api, cpu, TOKENS, 0, host_memory);
    read_params(l, folder);
    moec_options alone = on_cpu(1), helped = on_cpu(4);
    moec_handle *handle;
    must(l->api, l->api->create(&alone, &handle), "create");
    moec_run_args args = args_of(l, NULL, NULL);
    must(l->api, l->api->run(handle, &args), "run");
    size_t bytes;
    const void *y = output(l, &bytes);
    *expected = host_memory(bytes);
    memcpy(*expected, y, bytes);
    l->api->destroy(handle);
    must(l->api, l->api->create(&helped, &l->handle), "create");
    return l;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    void *expected, *expected_other;
    layer *l = opened(GET_API(FIRST), arguments[1], &expected), *other = opened(GET_API(SECOND), arguments[1], &expected_other);
    const moec_api *api = l->api;
    moec_binding *binding;
    moec_bind_args weights = bind_args_of(l, NULL);
    must(api, api->bind(l->handle, &weights, &binding), "bind");

    together(l, l->handle, binding, expected, FEW, 40);
    printf("%d threads on one handle\n", FEW);
    together(l, l->handle, binding, expected, MORE_THAN_SLOTS, 4);
    printf("%d threads on one handle\n", MORE_THAN_SLOTS);

    caller within = {other, other->handle, NULL, expected_other, NULL, 0, 0};
    moec_options options = on_cpu(0);
    options.parallel_for = nested, options.parallel_for_user = &within;
    moec_handle *outer;
    must(api, api->create(&options, &outer), "create");
    caller without = {l, outer, NULL, expected, NULL, 0, 0};
    run_and_compare(&without);
    api->destroy(outer);
    printf("a run of another layer inside of a parallel_for\n");

    long times = strtol(arguments[2], NULL, 10);
    for (long i = 0; i < times; i++) {
        moec_options two = on_cpu(2);
        moec_handle *handle;
        moec_binding *bound;
        must(api, api->create(&two, &handle), "create");
        must(api, api->bind(handle, &weights, &bound), "bind");
        caller alone = {l, handle, bound, expected, NULL, 0, 0};
        if (i % 64 == 0) run_and_compare(&alone);
        api->unbind(bound);
        api->destroy(handle);
    }
    printf("%ld handles\n", times);

    api->unbind(binding);
    api->destroy(l->handle);
    other->api->destroy(other->handle);
    free_layer(l);
    free_layer(other);
    free(expected);
    free(expected_other);
    return 0;
}
