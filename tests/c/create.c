/* What create says. FIRST is the layer. Arguments: types of devices, 0 for what the library prefers. */
#include "layer.h"

#define JOINED(a, b) a##b
#define GET_API(prefix) JOINED(prefix, _get_api)

const moec_api *GET_API(FIRST)(uint32_t wanted);

int main(int count, char **arguments) {
    const moec_api *api = GET_API(FIRST)(MOEC_ABI_VERSION);
    for (int i = 1; i < count; i++) {
        moec_handle *handle;
        moec_options options = on_cpu(1);
        options.device.device_type = atoi(arguments[i]);
        moec_status status = api->create(&options, &handle);
        printf("device type %s: %s: %s\n", arguments[i], api->status_string(status), status ? last_text(api) : api->target(handle));
        api->destroy(handle);
    }
    return 0;
}
