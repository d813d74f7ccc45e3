/* A CUDA driver that runs nothing: device memory is host memory, and what is asked of it is a line on stdout, or in the file $MOCK_LOG. An
 * address is the number of its allocation and the bytes from there. What a kernel takes is read in the PTX.
 *
 * $MOCK_ARCH      the compute capability, 80 unless given
 * $MOCK_VERSION   what the driver speaks, 13000 unless given
 * $MOCK_FAIL      "<call> <CUresult>": that call fails
 * $MOCK_CAPTURE   where it is set a stream is being captured: all but launches and questions are refused
 * $MOCK_FILL      the byte that memory is filled with, whatever is asked for: as if a kernel had written it
 * $MOCK_HANG      launches of kernels with this in their name never return */
#include <stdint.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 64, MOST_MEMORY = 1 << 16, POINTER = 8, INT = 4, MAP = 128 };
enum { OTHER_CONTEXT = 201, NO_SUCH_DEVICE = 101, INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURED = 900 };

typedef struct {
    char name[128];
    int sizes[MOST], count;
} kernel;

static kernel kernels[MOST];
static int num_kernels;
static struct { char *base; size_t bytes; } memory[MOST_MEMORY];
static int num_memory, loaded, capturing;

static int number(const char *variable, int otherwise) {
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

static void say(const char *format, ...) {
    const char *log = getenv("MOCK_LOG");
    FILE *file = log ? fopen(log, "a") : stdout;
    va_list list;
    va_start(list, format);
    vfprintf(file, format, list);
    va_end(list);
    fputc('\n', file);
    if (log) fclose(file);
}

/* What the call answers: 0, but for an injected failure. */
static int answer(const char *call) {
    const char *fail = getenv("MOCK_FAIL");
    size_t length = strlen(call);
    return fail && !strncmp(fail, call, length) && fail[length] == ' ' ? atoi(fail + length) : 0;
}

/* As `answer`, of what a capture refuses. */
static int outside(const char *call) { return capturing || getenv("MOCK_CAPTURE") ? CAPTURED : answer(call); }

static const char *place(const void *address, char *text, size_t capacity) {
    for (int i = 0; i < num_memory; i++)
        if ((const char *)address >= memory[i].base && (const char *)address < memory[i].base + memory[i].bytes) {
            snprintf(text, capacity, "m%d+%zu", i, (size_t)((const char *)address - memory[i].base));
            return text;
        }
    return "nowhere";
}

/* `.entry name(.param .u64 a, .param .align 64 .b8 b[128], ..)` of the whole text. */
static void read_kernels(const char *text) {
    num_kernels = 0;
    while ((text = strstr(text, ".entry ")) && num_kernels < MOST) {
        kernel *k = &kernels[num_kernels++];
        size_t length = strcspn(text += 7, "( \n");
        snprintf(k->name, sizeof k->name, "%.*s", (int)length, text);
        const char *end = strchr(text, ')');
        k->count = 0;
        while ((text = strstr(text, ".param ")) && text < end) {
            const char *next = text + strcspn(text, ",)");
            const char *wide = strstr(text, ".u64"), *bytes = strstr(text, "[128]");
            k->sizes[k->count++] = bytes && bytes < next ? MAP : wide && wide < next ? POINTER : INT;
            text = next;
        }
        text = end;
    }
}

int cuInit(unsigned flags) { return (void)flags, answer("cuInit"); }
int cuDriverGetVersion(int *version) { return *version = number("MOCK_VERSION", 13000), 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : code == 223 ? "CUDA_ERROR_JIT_COMPILATION_DISABLED"
            : code == 221 ? "CUDA_ERROR_JIT_COMPILER_NOT_FOUND" : code == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
            : code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 101 ? "CUDA_ERROR_INVALID_DEVICE" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
int cuGetErrorString(int code, const char **text) { return (void)code, *text = "words", 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal > 1 ? NO_SUCH_DEVICE : answer("cuDeviceGet"); }
int cuDeviceGetName(char *name, int length, int device) { return (void)device, snprintf(name, (size_t)length, "Mock GPU"), 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    enum { MEMORY_POOLS = 115 };
    int arch = number("MOCK_ARCH", 80);
    return (void)device, *value = which == 75 ? arch / 10 : which == MEMORY_POOLS ? 0 : arch % 10, answer("cuDeviceGetAttribute");
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    int code = answer("cuDevicePrimaryCtxRetain");
    say("cuDevicePrimaryCtxRetain %d", device);
    if (!code) *context = (void *)1;
    return code;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return say("cuDevicePrimaryCtxRelease %d", device), 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : OTHER_CONTEXT; }
int cuCtxPushCurrent_v2(void *context) { return say("cuCtxPushCurrent"), context == (void *)1 ? answer("cuCtxPushCurrent") : OTHER_CONTEXT; }
int cuCtxPopCurrent_v2(void **context) { return say("cuCtxPopCurrent"), *context = (void *)1, 0; }
int cuCtxSynchronize(void) { return outside("cuCtxSynchronize"); }
/* What cudarc calls beside: streams and events, of which the order is shown. */
int cuCtxGetCurrent(void **context) { return *context = (void *)1, 0; }
int cuStreamCreate(void **stream, unsigned flags) {
    static uintptr_t streams = 0x77;
    return (void)flags, *stream = (void *)streams++, 0;
}
int cuStreamDestroy_v2(void *stream) { return (void)stream, 0; }
int cuStreamSynchronize(void *stream) { return (void)stream, outside("cuStreamSynchronize"); }
int cuEventCreate(void **event, unsigned flags) {
    static uintptr_t events = 1;
    return (void)flags, *event = (void *)events++, 0;
}
int cuEventDestroy_v2(void *event) { return (void)event, 0; }
int cuEventRecord(void *event, void *stream) { return say("event %zu is of stream %#zx", (size_t)event, (size_t)stream), 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    return (void)flags, say("stream %#zx waits for event %zu", (size_t)stream, (size_t)event), 0;
}
int cuStreamIsCapturing(void *stream, int *status) { return (void)stream, *status = getenv("MOCK_CAPTURE") != NULL, answer("cuStreamIsCapturing"); }

/* What the GPU kit calls beside: the size of the memory, times, and graphs, of which there is one. */
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return (void)device, *bytes = (size_t)8 << 30, 0; }
int cuEventSynchronize(void *event) { return (void)event, outside("cuEventSynchronize"); }
int cuEventElapsedTime(float *milliseconds, void *first, void *second) {
    return (void)first, (void)second, *milliseconds = 0.125f, answer("cuEventElapsedTime");
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    int code = outside("cuStreamBeginCapture");
    (void)stream, (void)mode, capturing = !code;
    return code;
}
int cuStreamEndCapture(void *stream, void **graph) {
    (void)stream, *graph = capturing ? (void *)4 : NULL;
    return capturing ? capturing = 0, answer("cuStreamEndCapture") : INVALID_HANDLE;
}
int cuGraphInstantiateWithFlags(void **replay, void *graph, unsigned long long flags) {
    return *replay = (void *)5, graph == (void *)4 && !flags ? answer("cuGraphInstantiate") : INVALID_HANDLE;
}
int cuGraphLaunch(void *replay, void *stream) {
    say("graph on stream %#zx", (size_t)stream);
    return replay == (void *)5 ? answer("cuGraphLaunch") : INVALID_HANDLE;
}
int cuGraphExecDestroy(void *replay) { return replay == (void *)5 ? 0 : INVALID_HANDLE; }
int cuGraphDestroy(void *graph) { return graph == (void *)4 ? 0 : INVALID_HANDLE; }

static int load(const char *call, void **library, const char *image) {
    int code = outside(call);
    say("load of %s", !memcmp(image, "\177ELF", 4) ? "a cubin" : strstr(image, ".target ") ? "PTX" : "nothing known");
    if (code) return code;
    if (image[0] != '\177') read_kernels(image);
    loaded++;
    return *library = (void *)2, 0;
}
static int unload(void *library) { return loaded--, say("unload"), library == (void *)2 ? 0 : INVALID_HANDLE; }
static int find(const char *call, void **found, void *library, const char *name) {
    if (library != (void *)2 || !loaded) return INVALID_HANDLE;
    for (int i = 0; i < num_kernels; i++)
        if (!strcmp(kernels[i].name, name)) return *found = &kernels[i], answer(call);
    return NOT_FOUND;
}
static int set(void *of, int which, int value) { return say("attribute %d of %s is %d", which, ((kernel *)of)->name, value), 0; }

/* What the C launcher calls, */
int cuLibraryLoadData(void **library, const void *image, int *options, void **values, unsigned count, int *more, void **them, unsigned their) {
    if (options || values || count || more || them || their) return 1;
    return load("cuLibraryLoadData", library, image);
}
int cuLibraryUnload(void *library) { return unload(library); }
int cuLibraryGetKernel(void **found, void *library, const char *name) { return find("cuLibraryGetKernel", found, library, name); }
int cuKernelGetFunction(void **function, void *of) { return *function = of, answer("cuKernelGetFunction"); }
int cuFuncLoad(void *function) { return say("cuFuncLoad %s", ((kernel *)function)->name), outside("cuFuncLoad"); }
int cuKernelSetAttribute(int which, int value, void *of, int device) {
    return (void)device, answer("cuKernelSetAttribute") ? answer("cuKernelSetAttribute") : set(of, which, value);
}
/* and moec-runtime. */
int cuModuleLoadData(void **module, const void *image) { return load("cuModuleLoadData", module, image); }
int cuModuleUnload(void *module) { return unload(module); }
int cuModuleGetFunction(void **found, void *module, const char *name) { return find("cuModuleGetFunction", found, module, name); }
int cuFuncSetAttribute(void *function, int which, int value) { return set(function, which, value); }

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    int code = outside("cuMemAlloc");
    if (code || num_memory == MOST_MEMORY) return code ? code : 2;
    size_t whole = (bytes + 255) / 256 * 256;
    char *base = aligned_alloc(256, whole);
    memset(base, 0, whole);
    say("m%d has %zu bytes", num_memory, bytes);
    memory[num_memory].base = base, memory[num_memory++].bytes = bytes;
    return *address = (uint64_t)(uintptr_t)base, 0;
}
int cuMemFree_v2(uint64_t address) {
    /* So that nothing lies there any more, where another allocation may be later. */
    for (int i = 0; i < num_memory; i++)
        if ((uint64_t)(uintptr_t)memory[i].base == address) memory[i].base = NULL, memory[i].bytes = 0;
    return free((void *)(uintptr_t)address), 0;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t bytes) {
    return memset((void *)(uintptr_t)address, number("MOCK_FILL", value), bytes), 0;
}
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    return (void)stream, memset((void *)(uintptr_t)address, number("MOCK_FILL", value), bytes), outside("cuMemsetD8Async");
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { return memcpy((void *)(uintptr_t)to, from, bytes), outside("cuMemcpyHtoD"); }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { return memcpy(to, (void *)(uintptr_t)from, bytes), outside("cuMemcpyDtoH"); }

/* A map as 16 words, which the launch shows. */
int cuTensorMapEncodeTiled(uint64_t *map, int type, unsigned rank, void *address, const uint64_t *extents, const uint64_t *strides,
                           const unsigned *box, const unsigned *steps, int interleave, int swizzle, int promotion, int fill) {
    if (rank != 3 || (uintptr_t)map % 64) return 1;
    const uint64_t words[16] = {(uint64_t)(uintptr_t)address, (uint64_t)type, extents[0], extents[1], extents[2], strides[0], strides[1],
                                box[0], box[1], box[2], steps[0] + 10 * steps[1] + 100 * steps[2],
                                (uint64_t)interleave, (uint64_t)swizzle, (uint64_t)promotion, (uint64_t)fill, 0};
    return memcpy(map, words, sizeof words), answer("cuTensorMapEncodeTiled");
}

struct attribute { int id; char pad[4]; union { char pad[64]; int words[16]; } value; };
struct config { unsigned grid[3], block[3], shared; void *stream; struct attribute *attributes; unsigned count; };

static void show(const struct config *config, const kernel *k, void **params) {
    char text[4096], at[64];
    int n = 0;
#define ADD(...) n += snprintf(text + n, sizeof text - (size_t)n, __VA_ARGS__)
    ADD("launch %s grid %u %u %u block %u %u %u shared %u stream %#zx", k->name, config->grid[0], config->grid[1], config->grid[2],
        config->block[0], config->block[1], config->block[2], config->shared, (size_t)config->stream);
    for (unsigned i = 0; i < config->count; i++) {
        const struct attribute *one = &config->attributes[i];
        ADD(one->id == 4 ? " attribute %d is %d %d %d" : " attribute %d is %d", one->id, one->value.words[0], one->value.words[1], one->value.words[2]);
    }
    for (int i = 0; i < k->count; i++) {
        ADD(i ? ", " : " (");
        const uint64_t *words = params[i];
        if (k->sizes[i] == INT) {
            ADD("%d", *(const int *)params[i]);
        } else if (k->sizes[i] == MAP) {
            ADD("map of %s type %d", place((void *)(uintptr_t)words[0], at, sizeof at), (int)words[1]);
            ADD(" extents %d %d %d strides %d %d", (int)words[2], (int)words[3], (int)words[4], (int)words[5], (int)words[6]);
            ADD(" box %d %d %d steps %d interleave %d", (int)words[7], (int)words[8], (int)words[9], (int)words[10], (int)words[11]);
            ADD(" swizzle %d promotion %d fill %d%s", (int)words[12], (int)words[13], (int)words[14], (uintptr_t)words % 64 ? " misaligned" : "");
        } else if (words[0] < 1 << 30) {
            ADD("%d", (int)words[0]);
        } else {
            ADD("%s", place((void *)(uintptr_t)words[0], at, sizeof at));
        }
    }
    say("%s%s", text, k->count ? ")" : " ()");
}
int cuLaunchKernelEx(const struct config *config, void *function, void **params, void **extra) {
    int code = extra ? 1 : answer("cuLaunchKernelEx");
    const char *hanging = getenv("MOCK_HANG");
    while (!code && hanging && strstr(((const kernel *)function)->name, hanging)) pause();
    if (!code) show(config, function, params);
    return code;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **params, void **extra) {
    const struct config config = {{gx, gy, gz}, {bx, by, bz}, shared, stream, NULL, 0};
    return cuLaunchKernelEx(&config, function, params, extra);
}
