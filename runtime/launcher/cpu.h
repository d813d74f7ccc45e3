/* Whether this CPU, under this system, has features: Intel SDM volume 2, CPUID; volume 1, chapter 13, XGETBV; on Arm what Linux says of
 * it, Documentation/arch/arm64/elf_hwcaps.rst. */

typedef struct {
    const char *name; /* as a manifest has it */
    uint8_t word, bit, saved;
} cpu_feature;

#if defined(__x86_64__)
#include <cpuid.h>

enum { LEAF1_C, LEAF1_D, LEAF7_B, LEAF7_C, LEAF7_D, LEAF7_1_A, EXTENDED_C, WORDS };
/* What the system must save: the vectors of AVX, those of AVX-512. */
enum { PLAIN = 0, AVX = 0x6, AVX512 = 0xe6 };

static const cpu_feature cpu_features[] = {
    {"sse", LEAF1_D, 25, PLAIN},         {"sse2", LEAF1_D, 26, PLAIN},        {"sse3", LEAF1_C, 0, PLAIN},
    {"ssse3", LEAF1_C, 9, PLAIN},        {"sse4.1", LEAF1_C, 19, PLAIN},      {"sse4.2", LEAF1_C, 20, PLAIN},
    {"fxsr", LEAF1_D, 24, PLAIN},        {"xsave", LEAF1_C, 26, PLAIN},       {"cmpxchg16b", LEAF1_C, 13, PLAIN},
    {"popcnt", LEAF1_C, 23, PLAIN},      {"movbe", LEAF1_C, 22, PLAIN},       {"aes", LEAF1_C, 25, PLAIN},
    {"pclmulqdq", LEAF1_C, 1, PLAIN},    {"rdrand", LEAF1_C, 30, PLAIN},      {"rdseed", LEAF7_B, 18, PLAIN},
    {"adx", LEAF7_B, 19, PLAIN},         {"sha", LEAF7_B, 29, PLAIN},         {"gfni", LEAF7_C, 8, PLAIN},
    {"bmi1", LEAF7_B, 3, PLAIN},         {"bmi2", LEAF7_B, 8, PLAIN},         {"lzcnt", EXTENDED_C, 5, PLAIN},
    {"avx", LEAF1_C, 28, AVX},           {"fma", LEAF1_C, 12, AVX},           {"f16c", LEAF1_C, 29, AVX},
    {"avx2", LEAF7_B, 5, AVX},           {"avxvnni", LEAF7_1_A, 4, AVX},      {"vaes", LEAF7_C, 9, AVX},
    {"vpclmulqdq", LEAF7_C, 10, AVX},    {"avx512f", LEAF7_B, 16, AVX512},    {"avx512dq", LEAF7_B, 17, AVX512},
    {"avx512cd", LEAF7_B, 28, AVX512},   {"avx512bw", LEAF7_B, 30, AVX512},   {"avx512vl", LEAF7_B, 31, AVX512},
    {"avx512ifma", LEAF7_B, 21, AVX512}, {"avx512vbmi", LEAF7_C, 1, AVX512},  {"avx512vbmi2", LEAF7_C, 6, AVX512},
    {"avx512vnni", LEAF7_C, 11, AVX512}, {"avx512bitalg", LEAF7_C, 12, AVX512}, {"avx512vpopcntdq", LEAF7_C, 14, AVX512},
    {"avx512vp2intersect", LEAF7_D, 8, AVX512}, {"avx512fp16", LEAF7_D, 23, AVX512}, {"avx512bf16", LEAF7_1_A, 5, AVX512},
};

static void cpu_words(uint32_t words[WORDS], uint32_t *saved) {
    uint32_t a, b, c, d;
    memset(words, 0, WORDS * sizeof *words);
    *saved = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        words[LEAF1_C] = c, words[LEAF1_D] = d;
        if (c >> 27 & 1) {
            uint32_t low, high;
            __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
            *saved = low;
        }
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        words[LEAF7_B] = b, words[LEAF7_C] = c, words[LEAF7_D] = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) words[LEAF7_1_A] = a;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) words[EXTENDED_C] = c;
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

enum { CAPS, MORE_CAPS, WORDS };

static const cpu_feature cpu_features[] = {
    {"neon", CAPS, 1, 0},       {"aes", CAPS, 3, 0},        {"sha2", CAPS, 6, 0},       {"crc", CAPS, 7, 0},
    {"lse", CAPS, 8, 0},        {"fp16", CAPS, 10, 0},      {"dotprod", CAPS, 20, 0},   {"sve", CAPS, 22, 0},
    {"fhm", CAPS, 23, 0},       {"sve2", MORE_CAPS, 1, 0},  {"i8mm", MORE_CAPS, 13, 0}, {"bf16", MORE_CAPS, 14, 0},
};

static void cpu_words(uint32_t words[WORDS], uint32_t *saved) {
    words[CAPS] = (uint32_t)getauxval(AT_HWCAP);
    words[MORE_CAPS] = (uint32_t)getauxval(AT_HWCAP2);
    *saved = 0;
}

#else
enum { WORDS = 1 };
static const cpu_feature cpu_features[] = {{"", 0, 0, 0}};
static void cpu_words(uint32_t words[WORDS], uint32_t *saved) { words[0] = *saved = 0; }
#endif

/* What is unknown here is absent: refusing to run is better than an illegal instruction. */
static int cpu_has(const char *name, size_t length, const uint32_t words[WORDS], uint32_t saved) {
    for (size_t i = 0; i < sizeof cpu_features / sizeof *cpu_features; i++)
        if (strlen(cpu_features[i].name) == length && memcmp(cpu_features[i].name, name, length) == 0)
            return (words[cpu_features[i].word] >> cpu_features[i].bit & 1) && (saved & cpu_features[i].saved) == cpu_features[i].saved;
    return 0;
}

/* How many features the target uses, and the first ones that are missing as text. */
static uint32_t cpu_missing(const moec_target *target, char *missing, size_t capacity, uint32_t *used) {
    uint32_t words[WORDS], saved, count = 0;
    size_t at = 0;
    cpu_words(words, &saved);
    *used = 0;
    missing[0] = 0;
    for (const char *name = target->features; *name;) {
        size_t length = strcspn(name, " ");
        ++*used;
        if (!cpu_has(name, length, words, saved)) {
            count++;
            if (at + length + 2 < capacity) {
                missing[at++] = ' ';
                memcpy(missing + at, name, length);
                missing[at += length] = 0;
            }
        }
        name += length + (name[length] == ' ');
    }
    return count;
}
