// Measures the erasure code of Intel ISA-L for one k and one shard size, on one thread: a peer for run.sh.
//
// usage: isal GOLDEN_DIRECTORY K SHARD_BYTES
// The matrix is read from GOLDEN_DIRECTORY/kK.txt. Input, timing and output lines are those of
// ../examples/erasure_speed.rs. Variants: shards aligned to pages, or each begun 192 bytes further; ISA-L called once
// for whole shards, or once for each 32 KiB of them, so that sources are still in a cache for the next rows.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <isa-l/erasure_code.h>

enum { K_MAX = 16, N_MAX = 40, PAGE_BYTES = 4096, STAGGER_BYTES = 192, TILE_BYTES = 32 * 1024 };

// A sample lasts a millisecond, or one pass where that takes longer.
enum { WARM_UP_SAMPLES = 30, SAMPLES_MIN = 5, SAMPLES_MAX = 100000 };
static const double SAMPLE_S = 0.001, MEASURED_S = 0.150;

static int k, n;
static size_t shard_bytes;
static unsigned char matrix[N_MAX * K_MAX]; // n rows of k coefficients
static unsigned char *shards[N_MAX];

// One product of rows with shards, ready to be run again and again.
typedef struct {
    int rows;
    size_t call_bytes; // of each shard, in one call of ISA-L
    unsigned char tables[32 * K_MAX * N_MAX];
    unsigned char *sources[K_MAX];
    unsigned char *outputs[N_MAX];
} Product;

static void fail(const char *what) {
    fprintf(stderr, "isal: %s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// Each line: a shard's index, its k coefficients in hex, bytes of a test. Lines of # are comments.
static void read_matrix(const char *directory) {
    char path[4096], line[4096], hex[2 * K_MAX + 1];
    snprintf(path, sizeof path, "%s/k%d.txt", directory, k);
    FILE *file = fopen(path, "r");
    if (!file) fail("the golden matrix cannot be read");
    for (n = 0; fgets(line, sizeof line, file);) {
        int index;
        if (line[0] == '#') continue;
        int read = sscanf(line, "%d %32[0-9a-f]", &index, hex);
        if (n == N_MAX || read != 2 || index != n || strlen(hex) != 2 * (size_t)k)
            fail("the golden matrix is not as expected");
        for (int column = 0; column < k; column++) sscanf(hex + 2 * column, "%2hhx", &matrix[n * k + column]);
        n++;
    }
    fclose(file);
}

// Memory for n shards and, in the first k, the same noise as everywhere. Returns its bytes, from shard 0 on.
static size_t make_shards(size_t stagger) {
    size_t stride = (shard_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES + stagger, bytes = stride * (size_t)n;
    unsigned char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("there is not enough memory");
    memset(memory, 0, bytes);
    for (int i = 0; i < n; i++) shards[i] = memory + stride * (size_t)i;
    for (int i = 0; i < k; i++) {
        uint64_t state = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u | 1;
        for (size_t j = 0; j < shard_bytes; j++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            shards[i][j] = (unsigned char)(state >> 24);
        }
    }
    return bytes;
}

// FNV-1a over 64-bit little-endian words.
static uint64_t sum(int from) {
    uint64_t sum = 0xcbf29ce484222325u;
    for (int i = from; i < n; i++)
        for (size_t j = 0; j < shard_bytes; j += 8) {
            uint64_t word;
            memcpy(&word, shards[i] + j, 8);
            sum = (sum ^ word) * 0x100000001b3u;
        }
    return sum;
}

static void pass(Product *product) {
    for (size_t at = 0; at < shard_bytes; at += product->call_bytes) {
        unsigned char *sources[K_MAX], *outputs[N_MAX];
        for (int i = 0; i < k; i++) sources[i] = product->sources[i] + at;
        for (int i = 0; i < product->rows; i++) outputs[i] = product->outputs[i] + at;
        ec_encode_data((int)product->call_bytes, k, product->rows, product->tables, sources, outputs);
    }
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void measure(const char *operation, const char *variant, Product *product) {
    static double rates[SAMPLES_MAX];
    int passes = 0, samples = 0;
    double start = now();
    do {
        pass(product);
        passes++;
    } while (now() - start < WARM_UP_SAMPLES * SAMPLE_S);
    int batch = (passes + WARM_UP_SAMPLES - 1) / WARM_UP_SAMPLES;
    start = now();
    for (double begun = start; samples < SAMPLES_MIN || begun - start < MEASURED_S;) {
        for (int i = 0; i < batch; i++) pass(product);
        double ended = now();
        if (samples == SAMPLES_MAX) break;
        rates[samples++] = (double)k * (double)shard_bytes * batch / (ended - begun) / 1e9;
        begun = ended;
    }
    qsort(rates, (size_t)samples, sizeof *rates, descending);
    printf("rate %s %d %d %zu 1 %s %.3f %.3f\n", operation, k, n, shard_bytes, variant, rates[0], rates[samples / 2]);
    fflush(stdout);
}

static int lost_of_one_data(int shard) { return shard == 0; }
static int lost_of_one_parity(int shard) { return shard == k; }
static int lost_of_half(int shard) { return shard % 2 == 0 && shard < n - k; }
static int lost_of_all(int shard) { return shard < n - k; }

static const struct {
    const char *name;
    int (*lost)(int shard);
} LOSSES[] = {
    {"one-data", lost_of_one_data},
    {"one-parity", lost_of_one_parity},
    {"half-of-parity", lost_of_half},
    {"as-much-as-parity", lost_of_all},
};

static void plan_encode(Product *product) {
    product->rows = n - k;
    ec_init_tables(k, n - k, matrix + k * k, product->tables);
    for (int i = 0; i < k; i++) product->sources[i] = shards[i];
    for (int i = k; i < n; i++) product->outputs[i - k] = shards[i];
}

// Each lost shard's row, in terms of the first k shards that are left.
static void plan_rebuild(Product *product, int (*lost)(int shard)) {
    unsigned char held[K_MAX * K_MAX], inverse[K_MAX * K_MAX], rows[N_MAX * K_MAX] = {0};
    product->rows = 0;
    for (int i = 0, sources = 0; i < n && sources < k; i++)
        if (!lost(i)) {
            memcpy(held + sources * k, matrix + i * k, (size_t)k);
            product->sources[sources++] = shards[i];
        }
    if (gf_invert_matrix(held, inverse, k) != 0) fail("the shards left do not suffice");
    for (int i = 0; i < n; i++)
        if (lost(i)) {
            for (int column = 0; column < k; column++)
                for (int j = 0; j < k; j++)
                    rows[product->rows * k + column] ^= gf_mul(matrix[i * k + j], inverse[j * k + column]);
            memset(shards[i], 0, shard_bytes);
            product->outputs[product->rows++] = shards[i];
        }
    ec_init_tables(k, product->rows, rows, product->tables);
}

// ISA-L does not tell which kernels it took. Its entry is a jump through a pointer that the first call has set, in a
// shared library to another such jump: follow them to a function that has a name.
static const char *kernels(void) {
#ifdef __x86_64__
#pragma weak ec_encode_data_avx512_gfni
#pragma weak ec_encode_data_avx2_gfni
#pragma weak ec_encode_data_avx512
#pragma weak ec_encode_data_avx2
    extern void ec_encode_data_avx512_gfni(void), ec_encode_data_avx2_gfni(void), ec_encode_data_avx512(void);
    const struct {
        const char *name;
        uintptr_t entry;
    } known[] = {
        {"AVX-512 with GFNI", (uintptr_t)ec_encode_data_avx512_gfni},
        {"AVX2 with GFNI", (uintptr_t)ec_encode_data_avx2_gfni},
        {"AVX-512", (uintptr_t)ec_encode_data_avx512},
        {"AVX2", (uintptr_t)ec_encode_data_avx2},
    };
    uintptr_t entry = (uintptr_t)ec_encode_data;
    for (int jumps = 0; jumps < 4; jumps++) {
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (known[i].entry == entry) return known[i].name;
        const unsigned char *code = (const unsigned char *)entry;
        int32_t distance;
        if (memcmp(code, "\xf3\x0f\x1e\xfa", 4) == 0) code += 4; // endbr64
        if (*code == 0xf2) code++;                                // bnd
        if (memcmp(code, "\xff\x25", 2) != 0) break;              // jmp [rip + distance]
        memcpy(&distance, code + 2, sizeof distance);
        memcpy(&entry, code + 6 + distance, sizeof entry);
    }
#endif
    return "unknown kernels";
}

int main(int argc, char **argv) {
    static Product product;
    if (argc != 4) fail("usage: isal GOLDEN_DIRECTORY K SHARD_BYTES");
    k = atoi(argv[2]);
    shard_bytes = (size_t)atoll(argv[3]);
    if (k < 1 || k > K_MAX) fail("k is at most 16");
    if (shard_bytes == 0 || shard_bytes % TILE_BYTES != 0 || shard_bytes > 1 << 30) fail("shards are of whole tiles");
    read_matrix(argv[1]);
    for (int staggered = 0; staggered < 2; staggered++) {
        size_t bytes = make_shards(staggered ? STAGGER_BYTES : 0);
        for (int tiled = 0; tiled < 2; tiled++) {
            char variant[32];
            snprintf(variant, sizeof variant, "%s%s", staggered ? "staggered" : "aligned", tiled ? "-tiled" : "");
            product.call_bytes = tiled ? TILE_BYTES : shard_bytes;
            for (int i = k; i < n; i++) memset(shards[i], 0, shard_bytes);
            plan_encode(&product);
            measure("encode", variant, &product);
            printf("sum %d %d %zu %016llx\n", k, n, shard_bytes, (unsigned long long)sum(k));
            uint64_t whole = sum(0);
            for (size_t i = 0; i < sizeof LOSSES / sizeof *LOSSES; i++) {
                plan_rebuild(&product, LOSSES[i].lost);
                measure(LOSSES[i].name, variant, &product);
                if (sum(0) != whole) fail("a rebuilt shard is wrong");
            }
        }
        munmap(shards[0], bytes);
    }
    printf("with %s\n", kernels());
    return 0;
}
