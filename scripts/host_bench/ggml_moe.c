/* An MoE layer of ggml's public C API that runs when it is told to, as `bench_host.py` asks: its experts on picks that are given.
 *
 *     ggml_moe FILE HIDDEN INTERMEDIATE EXPERTS TOP_K f32|bf16 GATE_UP DOWN THREADS TYPE
 *
 * FILE has the weights at two byte offsets, rows of gate and then of up of each expert; TYPE (f32, bf16, q8_0 or q4_K) is what they are
 * multiplied in. Lines of standard input:
 *
 *     batch SLOT TOKENS OFFSET PICKS   tokens at an offset of FILE, and a file of expert ids and weights; SLOT is 0 or 1
 *     run SLOT                         answered by the seconds that took
 *     write SLOT PATH                  the last output as f32
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ggml-cpu.h"
#include "ggml.h"

static void fail(const char *why) {
    fprintf(stderr, "ggml_moe: %s\n", why);
    exit(1);
}

static const char *map(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat about;
    if (file < 0 || fstat(file, &about) != 0) fail("a file is not there");
    void *start = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (start == MAP_FAILED) fail("a file is not mapped");
    return start;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum ggml_type type_of(const char *name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char *known = ggml_type_name((enum ggml_type)type);
        if (known != NULL && strcmp(known, name) == 0) return (enum ggml_type)type;
    }
    fail("no such type");
    return GGML_TYPE_COUNT;
}

/* Elements of one of the two types that files have, as f32. */
static void to_f32(const char *from, enum ggml_type type, float *to, int64_t count) {
    if (type == GGML_TYPE_BF16) {
        ggml_bf16_to_fp32_row((const ggml_bf16_t *)from, to, count);
    } else {
        memcpy(to, from, (size_t)count * sizeof *to);
    }
}

/* A stack of matrices: where they lie in the file, or quantised. */
static struct ggml_tensor *weight(struct ggml_context *context, const char *from, enum ggml_type stored, enum ggml_type type,
                                  int64_t columns, int64_t rows, int64_t experts) {
    struct ggml_tensor *tensor = ggml_new_tensor_3d(context, type, columns, rows, experts);
    if (type == stored) {
        tensor->data = (void *)from;
        return tensor;
    }
    float *row = malloc((size_t)columns * sizeof *row);
    tensor->data = aligned_alloc(64, (ggml_nbytes(tensor) + 63) / 64 * 64);
    if (row == NULL || tensor->data == NULL) fail("out of memory");
    for (int64_t i = 0; i < rows * experts; i++) {
        to_f32(from + (size_t)i * ggml_row_size(stored, columns), stored, row, columns);
        ggml_quantize_chunk(type, row, (char *)tensor->data + (size_t)i * ggml_row_size(type, columns), 0, 1, columns, NULL);
    }
    free(row);
    return tensor;
}

int main(int count, char **arguments) {
    if (count != 11) fail("usage: ggml_moe FILE HIDDEN INTERMEDIATE EXPERTS TOP_K f32|bf16 GATE_UP DOWN THREADS TYPE");
    const char *file = map(arguments[1]);
    int64_t hidden = atoll(arguments[2]), inner = atoll(arguments[3]), experts = atoll(arguments[4]), top_k = atoll(arguments[5]);
    enum ggml_type stored = type_of(arguments[6]), type = type_of(arguments[10]);
    int threads = atoi(arguments[9]);

    struct ggml_context *weights = ggml_init((struct ggml_init_params){16 * ggml_tensor_overhead(), NULL, true});
    struct ggml_tensor *gate_up = weight(weights, file + atoll(arguments[7]), stored, type, hidden, 2 * inner, experts);
    struct ggml_tensor *down = weight(weights, file + atoll(arguments[8]), stored, type, inner, hidden, experts);
    struct ggml_tensor *gate = ggml_view_3d(weights, gate_up, hidden, inner, experts, gate_up->nb[1], gate_up->nb[2], 0);
    struct ggml_tensor *up =
        ggml_view_3d(weights, gate_up, hidden, inner, experts, gate_up->nb[1], gate_up->nb[2], (size_t)inner * gate_up->nb[1]);

    struct batch {
        struct ggml_context *context;
        struct ggml_cgraph *graph;
        struct ggml_cplan plan;
        struct ggml_tensor *y;
    } batches[2] = {0};
    puts("ready");
    fflush(stdout);

    char line[4096], path[4000];
    long long tokens, offset;
    int slot;
    while (fgets(line, sizeof line, stdin) != NULL) {
        struct batch *b = sscanf(line, "%*s %d", &slot) == 1 && (slot == 0 || slot == 1) ? &batches[slot] : NULL;
        if (b == NULL) fail("no such slot");
        if (sscanf(line, "batch %*d %lld %lld %3999s", &tokens, &offset, path) == 3) {
            if (b->context != NULL) ggml_free(b->context);
            free(b->plan.work_data);
            int64_t pairs = tokens * top_k;
            /* Three products and their activation, weighted rows, and the sums of a token's. */
            size_t floats = (size_t)(pairs * (3 * inner + 2 * hidden) + tokens * hidden * (top_k + 1) + 2 * pairs);
            size_t overhead = ggml_tensor_overhead() * (size_t)(64 + 4 * top_k) + ggml_graph_overhead();
            struct ggml_context *context = ggml_init((struct ggml_init_params){4 * floats + overhead + (1 << 20), NULL, false});
            if (context == NULL) fail("out of memory");
            struct ggml_tensor *x = ggml_new_tensor_3d(context, GGML_TYPE_F32, hidden, 1, tokens);
            to_f32(file + offset, stored, x->data, hidden * tokens);
            const char *picks = map(path);
            struct ggml_tensor *ids = ggml_new_tensor_2d(context, GGML_TYPE_I32, top_k, tokens);
            memcpy(ids->data, picks, (size_t)pairs * 4);
            struct ggml_tensor *shares = ggml_new_tensor_3d(context, GGML_TYPE_F32, 1, top_k, tokens);
            memcpy(shares->data, picks + pairs * 4, (size_t)pairs * 4);
            munmap((void *)picks, (size_t)pairs * 8);
            /* As llama.cpp builds it. */
            struct ggml_tensor *rows =
                ggml_swiglu_split(context, ggml_mul_mat_id(context, gate, x, ids), ggml_mul_mat_id(context, up, x, ids));
            rows = ggml_mul(context, ggml_mul_mat_id(context, down, rows, ids), shares);
            struct ggml_tensor *y = NULL;
            for (int64_t k = 0; k < top_k; k++) {
                struct ggml_tensor *part = ggml_view_2d(context, rows, hidden, tokens, rows->nb[2], (size_t)k * rows->nb[1]);
                y = y == NULL ? part : ggml_add(context, y, part);
            }
            if (top_k == 1) y = ggml_cont(context, y);
            struct ggml_cgraph *graph = ggml_new_graph(context);
            ggml_build_forward_expand(graph, y);
            struct ggml_cplan plan = ggml_graph_plan(graph, threads, NULL);
            plan.work_data = plan.work_size > 0 ? malloc(plan.work_size) : NULL;
            *b = (struct batch){context, graph, plan, y};
            puts("there");
        } else if (strncmp(line, "run ", 4) == 0 && b->graph != NULL) {
            double start = now();
            if (ggml_graph_compute(b->graph, &b->plan) != GGML_STATUS_SUCCESS) fail("a run failed");
            printf("%.9f\n", now() - start);
        } else if (sscanf(line, "write %*d %3999s", path) == 1 && b->y != NULL) {
            FILE *out = fopen(path, "wb");
            if (out == NULL || fwrite(b->y->data, 1, ggml_nbytes(b->y), out) != ggml_nbytes(b->y) || fclose(out) != 0) fail("not written");
            puts("written");
        } else {
            fail("no such command");
        }
        fflush(stdout);
    }
    return 0;
}
