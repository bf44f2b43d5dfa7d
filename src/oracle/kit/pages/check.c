/* check.c: how a C engine uses the kit, without a JSON reader: the ops that decide most, on cases named here.
 *
 *     cc -std=c99 -O2 -ffp-contract=off check.c -lm -o check && ./check DIR
 *
 * -ffp-contract=off: a fused multiply-add rounds once where the definition rounds twice. Little-endian machines. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *root;
static int failed = 0;

/* An .npy file: 10 bytes, of which the last two are the length of the header text; the text; the numbers. */
typedef struct { long rows, columns; void *data; } Array;

static Array load(const char *vector, const char *name, int size) {
    char path[1024], text[256] = "";
    unsigned char head[10];
    Array a = {1, 1, NULL};
    snprintf(path, sizeof path, "%s/kernels/%s/%s.npy", root, vector, name);
    FILE *file = fopen(path, "rb");
    if (!file || fread(head, 1, 10, file) != 10 || head[9] || fread(text, 1, head[8], file) != head[8]) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    /* (columns,) or (rows, columns) */
    if (sscanf(strchr(text, '('), "(%ld, %ld)", &a.rows, &a.columns) == 1) { a.columns = a.rows; a.rows = 1; }
    a.data = malloc(a.rows * a.columns * size);
    if (fread(a.data, size, a.rows * a.columns, file) != (size_t)(a.rows * a.columns)) exit(2);
    fclose(file);
    return a;
}

/* kind: 'f' for float, 'i' for int32_t, 'b' for int8_t. The same bits; all NaN are one. */
static void compare(const char *vector, const char *name, const void *got, char kind) {
    int size = kind == 'b' ? 1 : 4;
    Array want = load(vector, name, size);
    long n = want.rows * want.columns, bad = 0;
    for (long i = 0; i < n; i++) {
        const char *a = (const char *)want.data + i * size, *b = (const char *)got + i * size;
        float x = 0, y = 0;
        if (kind == 'f') { memcpy(&x, a, 4); memcpy(&y, b, 4); }
        bad += memcmp(a, b, size) != 0 && !(isnan(x) && isnan(y));
    }
    if (bad) printf("%s %s: %ld of %ld differ\n", vector, name, bad, n);
    failed += bad != 0;
    free(want.data);
}

static void quantize_rows(const char *vector) {
    Array x = load(vector, "x", 4);
    int8_t *codes = malloc(x.rows * x.columns);
    float *scales = malloc(x.rows * sizeof *scales), *v = x.data;
    for (long r = 0; r < x.rows; r++) {
        float most = 1e-5f;
        for (long c = 0; c < x.columns; c++) if (fabsf(v[r * x.columns + c]) > most) most = fabsf(v[r * x.columns + c]);
        scales[r] = 127.0f / most;
        for (long c = 0; c < x.columns; c++) {
            float q = rintf(v[r * x.columns + c] * scales[r]); /* to nearest, ties to even: the default mode */
            codes[r * x.columns + c] = isnan(q) ? 0 : q < -128 ? -128 : q > 127 ? 127 : (int8_t)q;
        }
    }
    compare(vector, "codes", codes, 'b');
    compare(vector, "scales", scales, 'f');
    free(x.data); free(codes); free(scales);
}

/* weight: I2_S in the order of x86, one scale behind it. */
static void ternary_matmul(const char *vector) {
    Array weight = load(vector, "weight", 1), codes = load(vector, "codes", 1), scales = load(vector, "scales", 4);
    long k = codes.columns, n = codes.rows, m = (weight.columns - 32) * 4 / k;
    const uint8_t *w = weight.data;
    int32_t *sums = calloc(n * m, sizeof *sums);
    float *out = malloc(n * m * sizeof *out), scale;
    memcpy(&scale, w + m * k / 4, 4);
    for (long t = 0; t < n; t++) {
        for (long r = 0; r < m; r++) {
            for (long c = 0; c < k; c++) {
                long e = r * k + c;
                int trit = (w[e / 128 * 32 + e % 32] >> (6 - 2 * (e / 32 % 4)) & 3) - 1;
                sums[t * m + r] += trit * ((const int8_t *)codes.data)[t * k + c]; /* 16 bits would not do */
            }
            out[t * m + r] = (float)sums[t * m + r] / ((const float *)scales.data)[t] * scale;
        }
    }
    compare(vector, "sums", sums, 'i');
    compare(vector, "out", out, 'f');
    free(weight.data); free(codes.data); free(scales.data); free(sums); free(out);
}

static void rms_norm(const char *vector, float eps) {
    Array x = load(vector, "x", 4), gain = load(vector, "gain", 4);
    float *out = malloc(x.rows * x.columns * sizeof *out), *v = x.data;
    for (long r = 0; r < x.rows; r++, v += x.columns) {
        double s[8] = {0}; /* eight running sums, folded in halves */
        for (long c = 0; c < x.columns; c++) s[c % 8] += (float)(v[c] * v[c]);
        for (int l = 0; l < 4; l++) s[l] += s[l + 4];
        float mean = (float)((s[0] + s[2] + (s[1] + s[3])) / x.columns), root_mean = sqrtf(mean + eps), f = 1.0f / root_mean;
        for (long c = 0; c < x.columns; c++) out[r * x.columns + c] = v[c] * f * ((const float *)gain.data)[c];
    }
    compare(vector, "out", out, 'f');
    free(x.data); free(gain.data); free(out);
}

int main(int argc, char **argv) {
    root = argc > 1 ? argv[1] : ".";
    const char *rows[] = {"normal", "ties", "zeros", "extreme", "special", "equal", "negative", "below-epsilon", "long-rows", "single-values"};
    const char *products[] = {"overflow-2560", "overflow-4096", "overflow-6912", "overflow-14336", "random-128", "random-256", "random-1152", "ties", "zeros", "special"};
    const char *norms[] = {"normal", "ties", "zeros", "extreme", "special", "columns-6912"};
    char vector[64];
    for (int i = 0; i < 10; i++) { snprintf(vector, 64, "quantizeRows/%s", rows[i]); quantize_rows(vector); }
    for (int i = 0; i < 10; i++) { snprintf(vector, 64, "ternaryMatmul/%s", products[i]); ternary_matmul(vector); }
    for (int i = 0; i < 6; i++) { snprintf(vector, 64, "rmsNorm/%s", norms[i]); rms_norm(vector, 1e-5f); }
    printf("%d arrays differ\n", failed);
    return failed > 0;
}
