// What archives of newer systems take from glibc 2.32 to 2.36, said in terms of glibc 2.28, and what of LLVM is to stay out.
#include <stddef.h>

#define HIDDEN __attribute__((visibility("hidden")))

long getrandom(void *, size_t, unsigned);
int __xstat(int, const char *, void *), __lxstat(int, const char *, void *), __fxstat(int, int, void *);
int __xstat64(int, const char *, void *), __lxstat64(int, const char *, void *), __fxstat64(int, int, void *);
int __xmknod(int, const char *, unsigned, unsigned long *);
_Noreturn void abort(void);

// 2.36
HIDDEN unsigned arc4random(void) {
    unsigned value;
    if (getrandom(&value, sizeof value, 0) != sizeof value) abort();
    return value;
}

// 2.33. The versions of the structures are those of x86-64.
HIDDEN int stat(const char *path, void *out) { return __xstat(1, path, out); }
HIDDEN int lstat(const char *path, void *out) { return __lxstat(1, path, out); }
HIDDEN int fstat(int file, void *out) { return __fxstat(1, file, out); }
HIDDEN int stat64(const char *path, void *out) { return __xstat64(1, path, out); }
HIDDEN int lstat64(const char *path, void *out) { return __lxstat64(1, path, out); }
HIDDEN int fstat64(int file, void *out) { return __fxstat64(1, file, out); }
HIDDEN int mknod(const char *path, unsigned mode, unsigned long device) { return __xmknod(0, path, mode, &device); }

// 2.33. LLVM prints it in statistics that moec does not ask for.
struct memory {
    size_t counts[10];
};
HIDDEN struct memory mallinfo2(void) { return (struct memory){{0}}; }

// 2.32. libstdc++ then counts references as with threads, always.
HIDDEN char __libc_single_threaded = 0;

// llvm-sys has functions that name every target of LLVM, so that a linker would take in all of them with what they do when a program
// starts. moec calls none of these.
#define ABSENT(of) HIDDEN int LLVM_Initialize##of(void) { return 1; }
ABSENT(AllAsmParsers)
ABSENT(AllAsmPrinters)
ABSENT(AllDisassemblers)
ABSENT(AllTargetInfos)
ABSENT(AllTargetMCs)
ABSENT(AllTargets)
ABSENT(NativeAsmParser)
ABSENT(NativeAsmPrinter)
ABSENT(NativeDisassembler)
ABSENT(NativeTarget)
