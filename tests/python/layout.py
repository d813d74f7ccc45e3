"""The structs of moec.library, in the words of tests/c/abi.c: `layout.py FOLDER OF library.py`."""

import ctypes
import sys

sys.path.insert(0, sys.argv[1])
import library

structs = {"device": library._Device, "dtype": library._DType, "tensor": library.Tensor, "param": library._Param, "info": library._Info,
           "dims": library._Dims, "options": library._Options, "bind_args": library._BindArgs, "run_args": library.RunArgs, "api": library._Api}
for name, struct in structs.items():
    print(f"moec_{name} {ctypes.sizeof(struct)}")
    for member, *_ in struct._fields_:
        print(f"  {getattr(struct, member).offset} {member}")
