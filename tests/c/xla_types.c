/* That the launcher's types and numbers of XLA's FFI are those of jaxlib's xla/ffi/api/c_api.h. Only compiled. */
#include "system.h"

#include <xla/ffi/api/c_api.h>

#include "tables.h"

extern const moec_layer tables;

#define MOEC_XLA_FFI handler
void *MOEC_XLA_FFI(void *call_frame);

#include "error.h"
#include "values.h"
#include "cpu.h"
#include "threads.h"
#include "driver.h"
#include "handle.h"
#include "batch.h"
#include "together.h"
#include "run.h"
#include "kept.h"
#include "xla_ffi.h"

#define SAME(a, b) _Static_assert((long)(a) == (long)(b), #a " is not " #b)
#define AT(ours, a, theirs, b) SAME(offsetof(ours, a), offsetof(theirs, b)); SAME(sizeof((ours *)0)->a, sizeof((theirs *)0)->b)
#define WHOLE(ours, last, theirs) SAME(XLA_SIZE(ours, last), theirs##_STRUCT_SIZE)

SAME(XLA_MAJOR, XLA_FFI_API_MAJOR);
_Static_assert(XLA_FFI_API_MINOR >= XLA_LEAST_MINOR && XLA_FFI_API_MINOR <= XLA_MINOR, "a version that is not known");
SAME(XLA_METADATA, XLA_FFI_Extension_Metadata);
SAME(XLA_BUFFER, XLA_FFI_ArgType_BUFFER);
SAME(XLA_BUFFER, XLA_FFI_RetType_BUFFER);
SAME(XLA_SCALAR, XLA_FFI_AttrType_SCALAR);
SAME(XLA_COMMAND_BUFFER_COMPATIBLE, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE);
SAME(XLA_INITIALIZE, XLA_FFI_ExecutionStage_INITIALIZE);
SAME(XLA_EXECUTE, XLA_FFI_ExecutionStage_EXECUTE);
SAME(XLA_S8, XLA_FFI_DataType_S8);
SAME(XLA_S16, XLA_FFI_DataType_S16);
SAME(XLA_S32, XLA_FFI_DataType_S32);
SAME(XLA_S64, XLA_FFI_DataType_S64);
SAME(XLA_U8, XLA_FFI_DataType_U8);
SAME(XLA_F16, XLA_FFI_DataType_F16);
SAME(XLA_F32, XLA_FFI_DataType_F32);
SAME(XLA_F64, XLA_FFI_DataType_F64);
SAME(XLA_BF16, XLA_FFI_DataType_BF16);
SAME(XLA_INVALID_ARGUMENT, XLA_FFI_Error_Code_INVALID_ARGUMENT);
SAME(XLA_RESOURCE_EXHAUSTED, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
SAME(XLA_FAILED_PRECONDITION, XLA_FFI_Error_Code_FAILED_PRECONDITION);
SAME(XLA_INTERNAL, XLA_FFI_Error_Code_INTERNAL);

WHOLE(xla_extension, next, XLA_FFI_Extension_Base);
AT(xla_extension, type, XLA_FFI_Extension_Base, type);
WHOLE(xla_version, minor, XLA_FFI_Api_Version);
AT(xla_version, major, XLA_FFI_Api_Version, major_version);
WHOLE(xla_metadata, traits, XLA_FFI_Metadata);
AT(xla_metadata, api_version, XLA_FFI_Metadata, api_version);
WHOLE(xla_metadata_extension, metadata, XLA_FFI_Metadata_Extension);
WHOLE(xla_new_error, code, XLA_FFI_Error_Create_Args);
AT(xla_new_error, message, XLA_FFI_Error_Create_Args, message);
WHOLE(xla_old_error, error, XLA_FFI_Error_Destroy_Args);
WHOLE(xla_stream, stream, XLA_FFI_Stream_Get_Args);
AT(xla_stream, context, XLA_FFI_Stream_Get_Args, ctx);
WHOLE(xla_ordinal, ordinal, XLA_FFI_DeviceOrdinal_Get_Args);
AT(xla_ordinal, context, XLA_FFI_DeviceOrdinal_Get_Args, ctx);
WHOLE(xla_api, ordinal, XLA_FFI_Api);
AT(xla_api, version, XLA_FFI_Api, api_version);
AT(xla_api, create_error, XLA_FFI_Api, XLA_FFI_Error_Create);
AT(xla_api, destroy_error, XLA_FFI_Api, XLA_FFI_Error_Destroy);
AT(xla_api, stream, XLA_FFI_Api, XLA_FFI_Stream_Get);
AT(xla_api, ordinal, XLA_FFI_Api, XLA_FFI_DeviceOrdinal_Get);
WHOLE(xla_buffer, dims, XLA_FFI_Buffer);
AT(xla_buffer, dtype, XLA_FFI_Buffer, dtype);
AT(xla_buffer, data, XLA_FFI_Buffer, data);
AT(xla_buffer, rank, XLA_FFI_Buffer, rank);
SAME(sizeof(xla_scalar), sizeof(XLA_FFI_Scalar));
AT(xla_scalar, value, XLA_FFI_Scalar, value);
SAME(sizeof(xla_text), sizeof(XLA_FFI_ByteSpan));
AT(xla_text, length, XLA_FFI_ByteSpan, len);
WHOLE(xla_list, values, XLA_FFI_Args);
WHOLE(xla_list, values, XLA_FFI_Rets);
AT(xla_list, count, XLA_FFI_Args, size);
AT(xla_list, types, XLA_FFI_Args, types);
AT(xla_list, values, XLA_FFI_Args, args);
AT(xla_list, values, XLA_FFI_Rets, rets);
WHOLE(xla_attributes, values, XLA_FFI_Attrs);
AT(xla_attributes, count, XLA_FFI_Attrs, size);
AT(xla_attributes, types, XLA_FFI_Attrs, types);
AT(xla_attributes, names, XLA_FFI_Attrs, names);
WHOLE(xla_frame, attributes, XLA_FFI_CallFrame);
AT(xla_frame, api, XLA_FFI_CallFrame, api);
AT(xla_frame, context, XLA_FFI_CallFrame, ctx);
AT(xla_frame, stage, XLA_FFI_CallFrame, stage);
AT(xla_frame, args, XLA_FFI_CallFrame, args);
AT(xla_frame, results, XLA_FFI_CallFrame, rets);
