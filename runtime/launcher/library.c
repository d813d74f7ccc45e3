/* The launcher as moec puts it into libraries: compiled once, for tables that are linked to it. moec gives these four symbols names of
 * the layer. */

#include "system.h"

#define MOEC_GET_API moec_any_get_api
#define MOEC_TVM_FFI moec_any_tvm_ffi
#define MOEC_XLA_FFI moec_any_xla_ffi

MOEC_EXPORT const moec_api *MOEC_GET_API(uint32_t wanted);
MOEC_EXPORT int MOEC_TVM_FFI(void *self, const void *args, int32_t count, void *result);
MOEC_EXPORT void *MOEC_XLA_FFI(void *call_frame);

#include "tables.h"

extern MOEC_HIDDEN const moec_layer tables;

#include "error.h"
#include "values.h"
#include "cpu.h"
#include "threads.h"
#include "driver.h"
#include "handle.h"
#include "batch.h"
#include "together.h"
#include "run.h"
#include "api.h"
#include "kept.h"
#include "tvm_ffi.h"
#include "xla_ffi.h"
