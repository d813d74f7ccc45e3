/* That the launcher's types and numbers of the CUDA driver are those of NVIDIA's cuda.h. Only compiled. */
#include <cuda.h>

#include "system.h"
#include "tables.h"

extern const moec_layer tables;

#include "error.h"
#include "driver.h"

#define SAME(a, b) _Static_assert((long)(a) == (long)(b), #a " is not " #b)
#define AT(ours, a, theirs, b) SAME(offsetof(ours, a), offsetof(theirs, b))

SAME(sizeof(cu_config), sizeof(CUlaunchConfig));
AT(cu_config, grid, CUlaunchConfig, gridDimX);
AT(cu_config, grid[2], CUlaunchConfig, gridDimZ);
AT(cu_config, block, CUlaunchConfig, blockDimX);
AT(cu_config, block[2], CUlaunchConfig, blockDimZ);
AT(cu_config, shared_bytes, CUlaunchConfig, sharedMemBytes);
AT(cu_config, stream, CUlaunchConfig, hStream);
AT(cu_config, attributes, CUlaunchConfig, attrs);
AT(cu_config, num_attributes, CUlaunchConfig, numAttrs);

SAME(sizeof(cu_attribute), sizeof(CUlaunchAttribute));
AT(cu_attribute, id, CUlaunchAttribute, id);
AT(cu_attribute, value.words[0], CUlaunchAttribute, value.clusterDim.x);
AT(cu_attribute, value.words[1], CUlaunchAttribute, value.clusterDim.y);
AT(cu_attribute, value.words[2], CUlaunchAttribute, value.clusterDim.z);
AT(cu_attribute, value.words[0], CUlaunchAttribute, value.programmaticStreamSerializationAllowed);
SAME(CU_CLUSTER, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
SAME(CU_EARLY, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);

SAME(sizeof(cu_tensor_map), sizeof(CUtensorMap));
_Static_assert(_Alignof(cu_tensor_map) >= _Alignof(CUtensorMap), "a tensor map is aligned");

SAME(CU_NOT_FOUND, CUDA_ERROR_NOT_FOUND);
SAME(CU_NO_BINARY, CUDA_ERROR_NO_BINARY_FOR_GPU);
SAME(CU_UNSUPPORTED_PTX, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
SAME(CU_NO_JIT, CUDA_ERROR_JIT_COMPILER_NOT_FOUND);
SAME(CU_JIT_DISABLED, CUDA_ERROR_JIT_COMPILATION_DISABLED);
SAME(CU_CAPTURE_UNSUPPORTED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
SAME(CU_CAPTURE_INVALIDATED, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
SAME(CU_CAPTURE_IMPLICIT, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
SAME(CU_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(CU_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(CU_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);

/* Of the types that the tables have as numbers: f32, f16, bf16, i32, and no swizzle to 128 bytes of it. */
SAME(3, CU_TENSOR_MAP_DATA_TYPE_INT32);
SAME(6, CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
SAME(7, CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
SAME(9, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
SAME(0, CU_TENSOR_MAP_SWIZZLE_NONE);
SAME(3, CU_TENSOR_MAP_SWIZZLE_128B);
SAME(3, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
SAME(0, CU_TENSOR_MAP_INTERLEAVE_NONE);
SAME(0, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

/* Pointers, and integers that are as wide as the driver's. */
SAME(sizeof(CUdevice), sizeof(int));
SAME(sizeof(CUresult), sizeof(int));
SAME(sizeof(CUfunction_attribute), sizeof(int));
SAME(sizeof(CUstreamCaptureStatus), sizeof(int));
SAME(sizeof(CUtensorMapDataType), sizeof(int));
SAME(sizeof(cuuint64_t), sizeof(uint64_t));
SAME(sizeof(cuuint32_t), sizeof(uint32_t));
