/* Runs the layers that it is linked with on a CPU, each on the file that is for it: once with bound weights, once without.
 * Arguments: the folder, T and S. */
#include "layer.h"

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(FIRST)(uint32_t wanted);
#ifdef SECOND
const moec_api *GET_API(SECOND)(uint32_t wanted);
#endif

static layer *opened(moec_get_api_fn get_api, char **arguments) {
    moec_device cpu = {MOEC_CPU, 0};
    layer *l = layer_of(get_api, cpu, strtoll(arguments[2], NULL, 10), strtoll(arguments[3], NULL, 10), host_memory);
    read_params(l, arguments[1]);
    moec_options options = on_cpu(2);
    must(l->api, l->api->create(&options, &l->handle), "create");
    return l;
}

static void ran(layer *l, char **arguments) {
    moec_binding *binding;
    moec_bind_args weights = bind_args_of(l, NULL);
    must(l->api, l->api->bind(l->handle, &weights, &binding), "bind");
    moec_run_args bound = args_of(l, binding, NULL), unbound = args_of(l, NULL, NULL);
    bound.sequence_tokens = unbound.sequence_tokens = strtoll(arguments[3], NULL, 10);
    must(l->api, l->api->run(l->handle, &bound), "run");
    write_output(l, arguments[1]);
    size_t bytes;
    void *y = output(l, &bytes), *first = host_memory(bytes);
    memcpy(first, y, bytes);
    memset(y, 0xff, bytes);
    memset(l->workspace, 0xff, l->workspace_bytes);
    must(l->api, l->api->run(l->handle, &unbound), "run without a binding");
    printf("%s on %s: %s\n", l->info->layer, l->api->target(l->handle), memcmp(first, y, bytes) ? "bound weights differ" : "the same with bound weights");
    l->api->unbind(binding);
    free(first);
}

static void closed(layer *l) {
    l->api->destroy(l->handle);
    free_layer(l);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    layer *first = opened(GET_API(FIRST), arguments);
#ifdef SECOND
    /* Both are open while either runs. */
    layer *second = opened(GET_API(SECOND), arguments);
    ran(second, arguments);
    closed(second);
#endif
    ran(first, arguments);
    closed(first);
    return 0;
}
