/* Products of bfloat16 in tiles of 32 by 32, by AMX or by AVX-512's products of pairs, and what stands between them.
 *
 * Sums are in fp32, in an order that no number of threads changes.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t count;

#ifdef __AVX512BF16__
#include <immintrin.h>

#define LARGE 1e30f
#define LINE 16
#define UP_TO(x, whole) (((x) + (whole) - 1) / (whole) * (whole))
#define WHOLE(x) UP_TO(x, 32)

typedef __m512 line;

/* ---- products: C (m, n) = or += A (m, k) B (k, n), where B holds two lines of k side by side, pair by pair; m is a
 * multiple of TALL, n of BROAD, k of 32 in tiles and else of 2 ---- */

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

#define TALL 32
#define BROAD 32

static inline int granted(void) { /* Linux gives a process the room for tiles when it asks */
    return !syscall(SYS_arch_prctl, 0x1023, 18);
}

static inline void begin_products(void) {
    struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
}

static inline void end_products(void) { _tile_release(); }

static inline void product(count m, count n, count k, const bf16 *a, count a_row, const uint32_t *b, count b_row, float *c,
                    count c_row, int add) {
    for (count i = 0; i < m; i += 32)
        for (count j = 0; j < n; j += 32) {
            float *high = c + i * c_row + j, *low = high + 16 * c_row;
            if (add) {
                _tile_loadd(0, high, c_row * 4);
                _tile_loadd(1, high + 16, c_row * 4);
                _tile_loadd(2, low, c_row * 4);
                _tile_loadd(3, low + 16, c_row * 4);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (count l = 0; l < k; l += 32) {
                const bf16 *rows = a + i * a_row + l;
                const uint32_t *pairs = b + l / 2 * b_row + j;
                _tile_loadd(4, rows, a_row * 2);
                _tile_loadd(6, pairs, b_row * 4);
                _tile_loadd(7, pairs + 16, b_row * 4);
                _tile_loadd(5, rows + 16 * a_row, a_row * 2);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, high, c_row * 4);
            _tile_stored(1, high + 16, c_row * 4);
            _tile_stored(2, low, c_row * 4);
            _tile_stored(3, low + 16, c_row * 4);
        }
}
#else
static inline int granted(void) { return 1; }
static inline void begin_products(void) {}
static inline void end_products(void) {}

#define TALL 8
#define BROAD LINE

__attribute__((always_inline)) static inline void strip(count m, int lines, count k, const bf16 *a, count a_row,
                                                        const uint32_t *b, count b_row, float *c, count c_row, int add) {
    for (count i = 0; i < m; i += TALL) {
        line sum[TALL][2];
        for (int r = 0; r < TALL; r++)
            for (int s = 0; s < lines; s++)
                sum[r][s] = add ? _mm512_loadu_ps(c + (i + r) * c_row + s * LINE) : _mm512_setzero_ps();
        for (count l = 0; l < k / 2; l++) {
            __m512bh pairs[2];
            for (int s = 0; s < lines; s++) pairs[s] = (__m512bh)_mm512_loadu_si512(b + l * b_row + s * LINE);
            for (int r = 0; r < TALL; r++) {
                uint32_t pair;
                memcpy(&pair, a + (i + r) * a_row + 2 * l, 4);
                const __m512bh twice = (__m512bh)_mm512_set1_epi32((int)pair);
                for (int s = 0; s < lines; s++) sum[r][s] = _mm512_dpbf16_ps(sum[r][s], twice, pairs[s]);
            }
        }
        for (int r = 0; r < TALL; r++)
            for (int s = 0; s < lines; s++) _mm512_storeu_ps(c + (i + r) * c_row + s * LINE, sum[r][s]);
    }
}

static inline void product(count m, count n, count k, const bf16 *a, count a_row, const uint32_t *b, count b_row, float *c,
                    count c_row, int add) {
    count j = 0;
    for (; j + 2 * LINE <= n; j += 2 * LINE) strip(m, 2, k, a, a_row, b + j, b_row, c + j, c_row, add);
    if (j < n) strip(m, 1, k, a, a_row, b + j, b_row, c + j, c_row, add);
}
#endif

/* ---- numbers ---- */

static inline __m256i narrow(line x) { return (__m256i)_mm512_cvtneps_pbh(x); }

static inline void put_line(bf16 *to, line x) { _mm256_storeu_si256((__m256i *)to, narrow(x)); }

static inline line wide(__m256i x) { return (line)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }

static inline line wide_at(const bf16 *x) { return wide(_mm256_loadu_si256((const __m256i *)x)); }

static inline __m512i paired(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

/* 2^x to a few units of fp32's last place: a polynomial (Taylor's, of e^(x ln 2)) on half a power of two around zero. */
static inline line power(line x) {
    const line n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, n);
    line p = _mm512_set1_ps(1.53533619e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33988600e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61843771e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55033251e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226498e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147182e-1f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f)), n);
}

/* Sixteen lines of sixteen words become columns. */
static inline void turned(__m512i x[LINE]) {
    __m512i y[LINE];
    for (int i = 0; i < LINE; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < LINE; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    }
}

/* The next bytes of a room, in whole cache lines; where there is none yet they are counted alone. */
static inline void *take(char **room, count bytes) {
    char *taken = *room;
    *room += (bytes + 63) / 64 * 64;
    return taken;
}
#endif
