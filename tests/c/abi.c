/* The layout of every struct of the C ABI, a line a member; and that a tensor is DLPack's. C11 and C++11. */
#include "moec_abi.h"

#include <stdio.h>

#ifdef __cplusplus
#define HOLDS(what) static_assert(what, #what)
#else
#define HOLDS(what) _Static_assert(what, #what)
#endif

/* dlpack.h 1.1: DLDevice, DLDataType and DLTensor on a machine of 64 bits. */
HOLDS(sizeof(moec_device) == 8 && offsetof(moec_device, device_type) == 0 && offsetof(moec_device, device_id) == 4);
HOLDS(sizeof(moec_dtype) == 4 && offsetof(moec_dtype, code) == 0 && offsetof(moec_dtype, bits) == 1 && offsetof(moec_dtype, lanes) == 2);
HOLDS(sizeof(moec_tensor) == 48 && offsetof(moec_tensor, data) == 0 && offsetof(moec_tensor, device) == 8);
HOLDS(offsetof(moec_tensor, ndim) == 16 && offsetof(moec_tensor, dtype) == 20 && offsetof(moec_tensor, shape) == 24);
HOLDS(offsetof(moec_tensor, strides) == 32 && offsetof(moec_tensor, byte_offset) == 40);
/* kDLCPU and kDLCUDA. */
HOLDS(MOEC_CPU == 1 && MOEC_CUDA_GPU == 2);

#define STRUCT(type) printf(#type " %zu\n", sizeof(type))
#define MEMBER(type, member) printf("  %zu " #member "\n", offsetof(type, member))

int main(void) {
    STRUCT(moec_device);
    MEMBER(moec_device, device_type), MEMBER(moec_device, device_id);
    STRUCT(moec_dtype);
    MEMBER(moec_dtype, code), MEMBER(moec_dtype, bits), MEMBER(moec_dtype, lanes);
    STRUCT(moec_tensor);
    MEMBER(moec_tensor, data), MEMBER(moec_tensor, device), MEMBER(moec_tensor, ndim), MEMBER(moec_tensor, dtype);
    MEMBER(moec_tensor, shape), MEMBER(moec_tensor, strides), MEMBER(moec_tensor, byte_offset);
    STRUCT(moec_param);
    MEMBER(moec_param, name), MEMBER(moec_param, shape), MEMBER(moec_param, dtype), MEMBER(moec_param, role);
    MEMBER(moec_param, ndim), MEMBER(moec_param, align), MEMBER(moec_param, reserved);
    STRUCT(moec_info);
    MEMBER(moec_info, struct_size), MEMBER(moec_info, abi_version), MEMBER(moec_info, num_params), MEMBER(moec_info, layer);
    MEMBER(moec_info, compiler), MEMBER(moec_info, spec_sha256), MEMBER(moec_info, params), MEMBER(moec_info, num_inputs);
    MEMBER(moec_info, num_outputs), MEMBER(moec_info, num_weights), MEMBER(moec_info, num_targets), MEMBER(moec_info, targets);
    MEMBER(moec_info, max_tokens);
    STRUCT(moec_dims);
    MEMBER(moec_dims, struct_size), MEMBER(moec_dims, tokens), MEMBER(moec_dims, sequence_tokens);
    STRUCT(moec_launch);
    MEMBER(moec_launch, struct_size), MEMBER(moec_launch, kernel), MEMBER(moec_launch, grid), MEMBER(moec_launch, block);
    MEMBER(moec_launch, cluster), MEMBER(moec_launch, dynamic_shared_bytes), MEMBER(moec_launch, flags);
    STRUCT(moec_options);
    MEMBER(moec_options, struct_size), MEMBER(moec_options, device), MEMBER(moec_options, get_proc), MEMBER(moec_options, get_proc_user);
    MEMBER(moec_options, parallel_for), MEMBER(moec_options, parallel_for_user), MEMBER(moec_options, threads), MEMBER(moec_options, flags);
    STRUCT(moec_bind_args);
    MEMBER(moec_bind_args, struct_size), MEMBER(moec_bind_args, weights), MEMBER(moec_bind_args, num_weights), MEMBER(moec_bind_args, flags);
    MEMBER(moec_bind_args, prepared), MEMBER(moec_bind_args, prepared_bytes), MEMBER(moec_bind_args, stream);
    STRUCT(moec_run_args);
    MEMBER(moec_run_args, struct_size), MEMBER(moec_run_args, params), MEMBER(moec_run_args, num_params), MEMBER(moec_run_args, flags);
    MEMBER(moec_run_args, binding), MEMBER(moec_run_args, workspace), MEMBER(moec_run_args, workspace_bytes);
    MEMBER(moec_run_args, stream), MEMBER(moec_run_args, sequence_tokens);
    STRUCT(moec_api);
    MEMBER(moec_api, struct_size), MEMBER(moec_api, abi_version), MEMBER(moec_api, reserved), MEMBER(moec_api, info);
    MEMBER(moec_api, manifest), MEMBER(moec_api, status_string), MEMBER(moec_api, last_error), MEMBER(moec_api, workspace_size);
    MEMBER(moec_api, prepared_size), MEMBER(moec_api, plan), MEMBER(moec_api, observed), MEMBER(moec_api, create);
    MEMBER(moec_api, destroy), MEMBER(moec_api, target), MEMBER(moec_api, bind), MEMBER(moec_api, unbind), MEMBER(moec_api, check);
    MEMBER(moec_api, run), MEMBER(moec_api, update);
    printf("statuses");
    const moec_status statuses[] = {MOEC_OK, MOEC_E_ABI, MOEC_E_ARG, MOEC_E_SHAPE, MOEC_E_DTYPE, MOEC_E_LAYOUT, MOEC_E_WORKSPACE,
                                    MOEC_E_NO_DRIVER, MOEC_E_NO_IMAGE, MOEC_E_DEVICE, MOEC_E_NOMEM, MOEC_E_CAPTURE, MOEC_CUDA(700)};
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) printf(" %d", statuses[i]);
    printf("\nversion %u, roles %u %u %u, early %u\n", MOEC_ABI_VERSION, MOEC_INPUT, MOEC_OUTPUT, MOEC_WEIGHT, MOEC_LAUNCH_EARLY);
    return 0;
}
