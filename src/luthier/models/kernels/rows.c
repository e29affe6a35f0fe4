/* A decoder's layers on rows of tokens, each row computed in the same order whoever else is there.
 *
 * States are fp32 (rows, width). Weights lie as they are, fp32 or bf16 (outs, width); for bf16 weights states are
 * rounded to bf16 where they enter a product, and sums are fp32. A number of the result is a sum over sixteen lanes, in
 * the order of the width, then over the lanes by halves: that order knows nothing of other rows, of tiles or of threads.
 * Keys lie in blocks of sixteen tokens (key heads, d, 16), values (key heads, 16, d').
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDE 64 /* bytes that the processor works on at once */
#define LIVE 16 /* sums of that width that it holds, beside what is added to them */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define WIDE 32
#define LIVE 8
#elif defined(__aarch64__)
#include <arm_neon.h>
#define WIDE 16
#define LIVE 16
#else
#define WIDE 16
#define LIVE 8
#endif

typedef uint16_t bf16;
typedef int64_t count;
typedef float vector __attribute__((vector_size(64)));
typedef float loose __attribute__((vector_size(64), aligned(2)));
typedef float part __attribute__((vector_size(WIDE)));
typedef float loose_part __attribute__((vector_size(WIDE), aligned(2)));
typedef uint32_t bits __attribute__((vector_size(WIDE)));
#define LANES 16
#define PARTS (64 / WIDE)
#define OF_PART (LANES / PARTS)
#define INLINE static inline __attribute__((always_inline))
#define THREADED _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1 && work > 1 << 15)")
#define UNROLLED _Pragma("GCC unroll 16")

typedef struct { const void *weight, *bias; count outs, width, stride, narrow; } Linear;
typedef struct { Linear down, up; double scale; } Pair; /* an adapter's: scale * up(down(x)) */
typedef struct { Linear base; const Pair *pairs; } Adapted; /* one pair for each adapter; no weight where it has none */
typedef struct { const void *weight; double epsilon; count narrow; } Norm;
typedef struct {
    Adapted q, k, v, o, gate, up, down;
    Norm before, between, of_q, of_k; /* the last two without a weight where there are none */
    double scaling, residual;
    count window, turned; /* a window of 0 sees all */
    float *keys, *values;
} Layer;
typedef struct {
    count lines, rows;
    const count *begins, *counts, *reads, *adapters; /* by line: first row, rows, tokens before, adapter or -1 */
    const int32_t *const *tables;                    /* by line: its blocks */
    const float *cos, *sin;                          /* (rows, d) */
    count heads, key_heads, d, threads;
    void *narrowed;       /* room for (rows, widest) bf16 */
    float *room;          /* room for the states between products, see `rooms` */
} Visit;
typedef struct { count key_heads, heads, d, d_value, window; double scaling, softcap; const float *sinks; } Manner;

INLINE float wide(bf16 x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

INLINE bf16 narrow(float x) { /* to the nearest, ties to even */
    union { float value; uint32_t bits; } u = {x};
    return (bf16)((u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16);
}

INLINE float number(const void *from, count at, count is_narrow) {
    return is_narrow ? wide(((const bf16 *)from)[at]) : ((const float *)from)[at];
}

/* e^x to a few units of fp32's last place (see bf16.c). */
INLINE float exp_of(float x) {
    float t = x * 1.44269504f;
    t = t > 127.f ? 127.f : t;
    float n = __builtin_rintf(t < -126.f ? -126.f : t), f = t - n;
    float p = 1.53533619e-4f;
    p = p * f + 1.33988600e-3f;
    p = p * f + 9.61843771e-3f;
    p = p * f + 5.55033251e-2f;
    p = p * f + 2.40226498e-1f;
    p = p * f + 6.93147182e-1f;
    p = p * f + 1.f;
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    return t < -126.f ? 0.f : p * power.value;
}

/* Sixteen vectors to their sums over lanes, by halves; vector 4j + q ends in lane 4q + j. */
INLINE vector sums(const vector *a) {
#ifdef __AVX512F__
    __m512 b[8], c[4], d[2];
    for (int i = 0; i < 8; i++)
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4((__m512)a[2 * i], (__m512)a[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4((__m512)a[2 * i], (__m512)a[2 * i + 1], 0xEE));
    for (int i = 0; i < 4; i++)
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xDD));
    for (int i = 0; i < 2; i++)
        d[i] = _mm512_add_ps(_mm512_shuffle_ps(c[2 * i], c[2 * i + 1], 0x44),
                             _mm512_shuffle_ps(c[2 * i], c[2 * i + 1], 0xEE));
    return (vector)_mm512_add_ps(_mm512_shuffle_ps(d[0], d[1], 0x88), _mm512_shuffle_ps(d[0], d[1], 0xDD));
#elif WIDE == 32
    const __m256 *from = (const __m256 *)a;
    __m256 b[16], c[8], d[4];
    vector out;
    for (int i = 0; i < 16; i++) b[i] = _mm256_add_ps(from[2 * i], from[2 * i + 1]);
    for (int i = 0; i < 8; i++)
        c[i] = _mm256_add_ps(_mm256_permute2f128_ps(b[2 * i], b[2 * i + 1], 0x20),
                             _mm256_permute2f128_ps(b[2 * i], b[2 * i + 1], 0x31));
    for (int i = 0; i < 4; i++) /* 0 and 2, 4 and 6, 1 and 3, 5 and 7 */
        d[i] = _mm256_add_ps(_mm256_shuffle_ps(c[4 * (i % 2) + i / 2], c[4 * (i % 2) + i / 2 + 2], 0x44),
                             _mm256_shuffle_ps(c[4 * (i % 2) + i / 2], c[4 * (i % 2) + i / 2 + 2], 0xEE));
    for (int i = 0; i < 2; i++)
        ((__m256 *)&out)[i] = _mm256_add_ps(_mm256_shuffle_ps(d[2 * i], d[2 * i + 1], 0x88),
                                            _mm256_shuffle_ps(d[2 * i], d[2 * i + 1], 0xDD));
    return out;
#else
    vector out;
    for (int lane = 0; lane < LANES; lane++) {
        vector v = a[4 * (lane % 4) + lane / 4];
        for (int half = 8; half; half /= 2)
            for (int i = 0; i < half; i++) v[i] = v[i] + v[i + half];
        out[lane] = v[0];
    }
    return out;
#endif
}

/* a * b + c, rounded once where the processor can: said outright, for the compiler would say it here and not there. */
INLINE part fused(part a, part b, part c) {
#if WIDE == 64
    return (part)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif WIDE == 32
    return (part)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (part)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* Adds the products of a part's fp32 numbers, or of twice as many bf16 ones, lane by lane. */
INLINE part added(part sum, part x, part w, int is_narrow) {
    if (is_narrow) {
#ifdef __AVX512BF16__
        return (part)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#else
        const bits a = (bits)x, b = (bits)w;
        sum = fused((part)(a << 16), (part)(b << 16), sum);
        return fused((part)(a & 0xffff0000u), (part)(b & 0xffff0000u), sum);
#endif
    }
    return fused(x, w, sum);
}

INLINE part loaded(const char *from) { return *(const loose_part *)from; }

/* A row's last bytes that stand in this part, and zeros after them. */
INLINE part rest(const char *from, count many) {
    part out = {0};
    if (many > 0) memcpy(&out, from, many < WIDE ? many : WIDE);
    return out;
}

typedef struct { float *at; count stride; int adds; float scale; } Out;

/* One part of R rows of x times C rows of w: their LIVE sums stay in registers, and whichever factors are fewer. Of the
 * weight that comes next as much is fetched as is read: into the second cache, for the first has room for these alone. */
INLINE void strip(int R, int C, int is_narrow, const char *x, count x_bytes, const char *w, count w_bytes, count bytes,
                  part *sum) {
    part a[LIVE], own[LIVE];
    for (int t = 0; t < LIVE; t++) a[t] = (part){0};
#define ADD(X, W) a[r * C + c] = added(a[r * C + c], X, W, is_narrow)
    for (count k = 0; k < bytes; k += 64) {
        UNROLLED for (int c = 0; c < C; c++) __builtin_prefetch(w + (c + LANES) * w_bytes + k, 0, 2);
        if (C <= R) {
            UNROLLED for (int c = 0; c < C; c++) own[c] = loaded(w + c * w_bytes + k);
            UNROLLED for (int r = 0; r < R; r++) {
                const part row = loaded(x + r * x_bytes + k);
                UNROLLED for (int c = 0; c < C; c++) ADD(row, own[c]);
            }
        } else {
            UNROLLED for (int r = 0; r < R; r++) own[r] = loaded(x + r * x_bytes + k);
            UNROLLED for (int c = 0; c < C; c++) {
                const part out = loaded(w + c * w_bytes + k);
                UNROLLED for (int r = 0; r < R; r++) ADD(own[r], out);
            }
        }
    }
#undef ADD
    UNROLLED for (int t = 0; t < LIVE; t++) sum[t] = a[t];
}

/* Sixteen numbers of the result: R rows of x times C = 16 / R rows of w, number r * C + c in that lane. */
INLINE vector tile(int R, int is_narrow, const char *x, count x_bytes, const char *w, count w_bytes, count bytes) {
    const int C = LANES / R, held = LIVE / R;
    const count whole = bytes / 64 * 64;
    union { vector whole[LANES]; part parts[LANES][PARTS]; } all;
#define SUM(T) all.parts[4 * ((T) % 4) + (T) / 4][p]
    for (int p = 0; p < PARTS; p++) {
        const char *xp = x + p * WIDE, *wp = w + p * WIDE;
        for (int c = 0; c < C; c += held) {
            part sum[LIVE];
            strip(R, held, is_narrow, xp, x_bytes, wp + c * w_bytes, w_bytes, whole, sum);
            UNROLLED for (int t = 0; t < LIVE; t++) SUM(t / held * C + c + t % held) = sum[t];
        }
        const count left = bytes - whole - p * WIDE;
        for (int t = 0; left > 0 && t < LANES; t++)
            SUM(t) = added(SUM(t), rest(xp + t / C * x_bytes + whole, left), rest(wp + t % C * w_bytes + whole, left),
                           is_narrow);
    }
#undef SUM
    return sums(all.whole);
}

/* R rows of the result and sixteen outs, from the out `n` on. */
INLINE void patch(int R, int is_narrow, const Linear *l, const char *x, count x_bytes, count row, count n, const Out *out) {
    const int C = LANES / R;
    const count size = is_narrow ? 2 : 4, w_bytes = l->stride * size;
    const char *w = (const char *)l->weight + n * w_bytes;
    float found[LANES][LANES];
    vector bias = {0};
    if (l->bias)
        for (int i = 0; i < LANES; i++) bias[i] = number(l->bias, n + i, l->narrow);
    for (int c = 0; c < LANES; c += C) {
        const vector y = tile(R, is_narrow, x + row * x_bytes, x_bytes, w + c * w_bytes, w_bytes, l->width * size);
        for (int r = 0; r < R; r++) memcpy(&found[r][c], (const float *)&y + r * C, C * sizeof(float));
    }
    for (int r = 0; r < R; r++) {
        loose *to = (loose *)(out->at + (row + r) * out->stride + n);
        const vector y = *(const loose *)found[r] + bias;
        *to = out->adds ? *to + out->scale * y : y;
    }
}

/* Outs that are fewer than 16: each alone, in the same order. */
static void single(int is_narrow, const Linear *l, const char *x, count x_bytes, count row, count n, const Out *out) {
    const int size = is_narrow ? 2 : 4;
    const count bytes = l->width * size;
    const char *w = (const char *)l->weight + n * l->stride * size, *from = x + row * x_bytes;
    union { vector whole[LANES]; part parts[LANES][PARTS]; } all = {0};
    for (count k = 0; k < bytes; k += WIDE) {
        part *sum = &all.parts[0][k / WIDE % PARTS];
        *sum = added(*sum, rest(from + k, bytes - k), rest(w + k, bytes - k), is_narrow);
    }
    float y = sums(all.whole)[0] + (l->bias ? number(l->bias, n, l->narrow) : 0.f);
    float *to = out->at + row * out->stride + n;
    *to = out->adds ? *to + out->scale * y : y;
}

INLINE void columns(int is_narrow, const Linear *l, const char *x, count x_bytes, count rows, count n, const Out *out) {
    if (n + LANES > l->outs) {
        for (count row = 0; row < rows; row++)
            for (count one = n; one < l->outs; one++) single(is_narrow, l, x, x_bytes, row, one, out);
        return;
    }
    count row = 0;
    for (; LIVE == 16 && row + 8 <= rows; row += 8) patch(8, is_narrow, l, x, x_bytes, row, n, out);
    for (; row + 4 <= rows; row += 4) patch(4, is_narrow, l, x, x_bytes, row, n, out);
    for (; row + 2 <= rows; row += 2) patch(2, is_narrow, l, x, x_bytes, row, n, out);
    for (; row < rows; row++) patch(1, is_narrow, l, x, x_bytes, row, n, out);
}

INLINE count most(count a, count b) { return a > b ? a : b; }

#define PIECE 64 /* rows whose states stay near while a weight is gone through */

/* (rows, width) states, rounded to bf16 in `narrowed` for a narrow weight, times the weight. */
static void multiply(const Linear *l, const float *x, const bf16 *narrowed, count rows, Out out, count threads) {
    const count x_bytes = l->width * (l->narrow ? 2 : 4), groups = (l->outs + LANES - 1) / LANES;
    const char *from = l->narrow ? (const char *)narrowed : (const char *)x;
    for (count row = 0; row < rows; row += PIECE) {
        const count many = rows - row < PIECE ? rows - row : PIECE;
        Out piece = out;
        piece.at += row * out.stride;
        const count work = l->outs * l->width;
        THREADED
        for (count g = 0; g < groups; g++) {
            if (l->narrow) columns(1, l, from + row * x_bytes, x_bytes, many, g * LANES, &piece);
            else columns(0, l, from + row * x_bytes, x_bytes, many, g * LANES, &piece);
        }
    }
}

static void round_all(const float *x, count many, bf16 *to) {
    count i = 0;
#ifdef __AVX512BF16__
    for (; i + 16 <= many; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
#endif
    for (; i < many; i++) to[i] = narrow(x[i]);
}

/* For those who bring their own: (rows, width) fp32 times (outs, width), fp32 or bf16. */
void product(const Linear *l, const float *x, void *narrowed, count rows, float *out, count threads) {
    if (l->narrow) round_all(x, rows * l->width, narrowed);
    multiply(l, x, narrowed, rows, (Out){out, l->outs, 0, 1}, threads);
}

/* A layer's product, with what each line's adapter adds; `low` has room for (rows, ranks) twice. */
static void adapted(const Adapted *a, const float *x, const Visit *v, Out out, float *low) {
    const Linear *base = &a->base;
    multiply(base, x, v->narrowed, v->rows, out, v->threads);
    if (!a->pairs) return;
    for (count line = 0; line < v->lines; line++) {
        const count begin = v->begins[line], adapter = v->adapters[line];
        const Pair *p = adapter < 0 ? 0 : &a->pairs[adapter];
        if (!p || !p->down.weight) continue;
        count rows = v->counts[line]; /* neighbours of the same adapter together */
        while (line + 1 < v->lines && v->adapters[line + 1] == adapter) rows += v->counts[++line];
        const float *from = x + begin * base->width;
        bf16 *own = malloc(sizeof(bf16) * rows * most(base->width, p->down.outs)); /* a stack is too small for it */
        bf16 *told = (bf16 *)v->narrowed + begin * base->width;
        if (p->down.narrow && !base->narrow) round_all(from, rows * base->width, told = own);
        multiply(&p->down, from, told, rows, (Out){low, p->down.outs, 0, 1}, v->threads);
        if (p->up.narrow) round_all(low, rows * p->down.outs, own);
        Out more = {out.at + begin * out.stride, out.stride, 1, (float)p->scale * (out.adds ? out.scale : 1.f)};
        multiply(&p->up, low, own, rows, more, v->threads);
        free(own);
    }
}

static void normed(const Norm *n, const float *x, count width, float *out) {
    vector sum[LANES] = {0};
    float squares[LANES] = {0};
    for (count i = 0; i < width; i++) squares[i % LANES] += x[i] * x[i];
    memcpy(&sum[0], squares, sizeof squares);
    const float scale = 1 / sqrtf(sums(sum)[0] / width + (float)n->epsilon);
    for (count i = 0; i < width; i++) out[i] = x[i] * scale * number(n->weight, i, n->narrow);
}

static void norms(const Norm *n, const float *x, count width, float *out, const Visit *v) {
    const count threads = v->threads, work = v->rows * width;
    THREADED
    for (count row = 0; row < v->rows; row++) normed(n, x + row * width, width, out + row * width);
}

/* Rotary positions: numbers i and i + d / 2 of a head turn by the angle of their token. */
static void turn(float *x, const float *cos, const float *sin, count d) {
    for (count i = 0; i < d / 2; i++) {
        float low = x[i], high = x[i + d / 2];
        x[i] = low * cos[i] - high * sin[i];
        x[i + d / 2] = high * cos[i + d / 2] + low * sin[i + d / 2];
    }
}

#define LOOKS 4
#define WEIGHED (LIVE / LOOKS) /* parts of a value that are summed at once */

/* The weighted values of R rows of queries of one key head: `last` is the token of each, which sees itself. */
INLINE void look(int R, const float *const *q, const count *last, const int32_t *table, const float *keys,
                 const float *values, count head, const Manner *m, const count *of_head, float *const *out) {
    const count d = m->d, dv = m->d_value, end = last[R - 1] + 1, padded = (dv + LANES - 1) / LANES * LANES;
    count first = m->window && last[0] + 1 > m->window ? last[0] + 1 - m->window : 0;
    first = first / LANES;
    const count blocks = (end + LANES - 1) / LANES;
    float *scores = malloc(sizeof(float) * R * (blocks - first) * LANES);
    float most[R], whole[R];
    for (int r = 0; r < R; r++) most[r] = m->sinks ? m->sinks[of_head[r]] : -INFINITY;
    for (count b = first; b < blocks; b++) {
        const float *k = keys + (table[b] * m->key_heads + head) * d * LANES;
        float s[R][LANES];
        for (int p = 0; p < LANES; p += OF_PART) {
            part own[R];
            for (int r = 0; r < R; r++) own[r] = (part){0};
            for (count i = 0; i < d; i++) {
                const part ki = *(const loose_part *)(k + i * LANES + p);
                for (int r = 0; r < R; r++) own[r] = fused((part){0} + q[r][i], ki, own[r]);
            }
            for (int r = 0; r < R; r++) *(loose_part *)(s[r] + p) = own[r];
        }
        for (int r = 0; r < R; r++) {
            float *to = scores + (r * (blocks - first) + b - first) * LANES;
            const count lowest = m->window ? last[r] + 1 - m->window : 0;
            for (int i = 0; i < LANES; i++) {
                float x = s[r][i] * (float)m->scaling;
                if (m->softcap) {
                    float c = (float)m->softcap;
                    x = c * (1 - 2 / (exp_of(2 * x / c) + 1));
                }
                const count token = b * LANES + i;
                to[i] = token > last[r] || token < lowest ? -INFINITY : x;
                most[r] = to[i] > most[r] ? to[i] : most[r];
            }
        }
    }
    for (int r = 0; r < R; r++) {
        float *s = scores + r * (blocks - first) * LANES;
        vector all[LANES] = {0};
        for (count b = 0; b < blocks - first; b++) {
            float e[LANES];
            for (int i = 0; i < LANES; i++) e[i] = s[b * LANES + i] = exp_of(s[b * LANES + i] - most[r]);
            all[0] += *(loose *)e;
        }
        whole[r] = sums(all)[0] + (m->sinks ? exp_of(m->sinks[of_head[r]] - most[r]) : 0.f);
    }
    for (count c = 0; c < padded; c += WEIGHED * OF_PART) {
        const int many = padded - c < WEIGHED * OF_PART ? (int)((padded - c) / OF_PART) : WEIGHED;
        part a[R][WEIGHED];
        for (int r = 0; r < R; r++)
            for (int i = 0; i < WEIGHED; i++) a[r][i] = (part){0};
        for (count t = first * LANES; t < end; t++) {
            const float *v = values + ((table[t / LANES] * m->key_heads + head) * LANES + t % LANES) * padded + c;
            part row[WEIGHED];
            for (int i = 0; i < many; i++) row[i] = *(const loose_part *)(v + i * OF_PART);
            for (int r = 0; r < R; r++) {
                const float share = scores[r * (blocks - first) * LANES + t - first * LANES];
                for (int i = 0; i < many; i++) a[r][i] = fused((part){0} + share, row[i], a[r][i]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int i = 0; i < many * OF_PART && c + i < dv; i++)
                out[r][c + i] = a[r][i / OF_PART][i % OF_PART] / whole[r];
    }
    free(scores);
}

/* Attention of (rows, heads, d) queries over each line's own past; out (rows, heads, d'). */
static void attend(const float *q, count q_stride, const float *keys, const float *values, const Visit *v,
                   const Manner *m, float *out) {
    const count groups = m->heads / m->key_heads, threads = v->threads;
    count tasks[v->lines + 1];
    tasks[0] = 0;
    for (count line = 0; line < v->lines; line++)
        tasks[line + 1] = tasks[line] + (v->counts[line] * groups + LOOKS - 1) / LOOKS * m->key_heads;
    _Pragma("omp parallel for schedule(dynamic, 4) num_threads(threads) if (threads > 1 && tasks[v->lines] > 8)")
    for (count task = 0; task < tasks[v->lines]; task++) {
        count line = 0;
        while (task >= tasks[line + 1]) line++;
        const count own = task - tasks[line], head = own % m->key_heads, begin = own / m->key_heads * LOOKS;
        const count all = v->counts[line] * groups, many = all - begin < LOOKS ? all - begin : LOOKS;
        const float *from[LOOKS];
        float *to[LOOKS];
        count last[LOOKS], of_head[LOOKS];
        for (count r = 0; r < many; r++) {
            const count token = (begin + r) / groups, row = v->begins[line] + token;
            of_head[r] = head * groups + (begin + r) % groups;
            from[r] = q + row * q_stride + of_head[r] * m->d;
            to[r] = out + (row * m->heads + of_head[r]) * m->d_value;
            last[r] = v->reads[line] + token;
        }
        const int32_t *table = v->tables[line];
        if (many == 4) look(4, from, last, table, keys, values, head, m, of_head, to);
        else if (many == 3) look(3, from, last, table, keys, values, head, m, of_head, to);
        else if (many == 2) look(2, from, last, table, keys, values, head, m, of_head, to);
        else look(1, from, last, table, keys, values, head, m, of_head, to);
    }
}

/* Puts the keys and values of new tokens where they belong. */
static void keep(const float *k, count k_stride, const float *value, count v_stride, float *keys, float *values,
                 const Visit *v, const Manner *m) {
    const count padded = (m->d_value + LANES - 1) / LANES * LANES;
    for (count line = 0; line < v->lines; line++)
        for (count at = 0; at < v->counts[line]; at++) {
            const count row = v->begins[line] + at, token = v->reads[line] + at;
            const count block = v->tables[line][token / LANES], place = token % LANES;
            for (count head = 0; head < m->key_heads; head++) {
                const float *from = k + row * k_stride + head * m->d, *also = value + row * v_stride + head * m->d_value;
                float *to = keys + (block * m->key_heads + head) * m->d * LANES + place;
                float *into = values + ((block * m->key_heads + head) * LANES + place) * padded;
                for (count i = 0; i < m->d; i++) to[i * LANES] = from[i];
                for (count i = 0; i < padded; i++) into[i] = i < m->d_value ? also[i] : 0.f;
            }
        }
}

/* The same for those who bring queries (rows, heads, d), keys (rows, key heads, d) and values (rows, key heads, d'). */
void past(const Visit *v, const Manner *m, const float *q, const float *k, const float *value, float *keys, float *values,
          float *out) {
    keep(k, m->key_heads * m->d, value, m->key_heads * m->d_value, keys, values, v, m);
    attend(q, m->heads * m->d, keys, values, v, m, out);
}

/* Norms of a few rows, for those who bring their own. */
void norm(const Norm *n, const float *x, count rows, count width, float *out) {
    for (count row = 0; row < rows; row++) normed(n, x + row * width, width, out + row * width);
}

static void gated(float *gate, const float *up, count many, count threads) {
    const count work = many;
    THREADED
    for (count i = 0; i < many; i++) gate[i] = gate[i] / (1 + exp_of(-gate[i])) * up[i];
}

/* How many floats a layer's states between its products take for each row. */
count rooms(const Layer *l) {
    const count inner = most(l->gate.base.outs, l->q.base.outs);
    return most(l->q.base.width, inner) + most(l->q.base.outs + 2 * l->k.base.outs, 2 * l->gate.base.outs);
}

/* A visit's states through the layers, in their place; `low` has room for (rows, ranks). */
void layers(const Layer *all, count number_of, const Visit *v, float *states, float *low) {
    const count rows = v->rows, d = v->d;
    for (const Layer *l = all; l < all + number_of; l++) {
        const count width = l->q.base.width, wide_q = l->q.base.outs, wide_k = l->k.base.outs, inner = l->gate.base.outs;
        const count whole = wide_q + 2 * wide_k;
        float *x = v->room, *qkv = v->room + rows * most(width, most(inner, wide_q));
        norms(&l->before, states, width, x, v);
        if (l->q.base.narrow) round_all(x, rows * width, v->narrowed);
        adapted(&l->q, x, v, (Out){qkv, whole, 0, 1}, low);
        adapted(&l->k, x, v, (Out){qkv + wide_q, whole, 0, 1}, low);
        adapted(&l->v, x, v, (Out){qkv + wide_q + wide_k, whole, 0, 1}, low);
        for (count row = 0; row < rows; row++)
            for (count head = 0; head < v->heads + v->key_heads; head++) {
                float *own = qkv + row * whole + head * d;
                const Norm *n = head < v->heads ? &l->of_q : &l->of_k;
                if (n->weight) normed(n, own, d, own);
                if (l->turned) turn(own, v->cos + row * d, v->sin + row * d, d);
            }
        const Manner m = {v->key_heads, v->heads, d, wide_k / v->key_heads, l->window, l->scaling, 0, 0};
        keep(qkv + wide_q, whole, qkv + wide_q + wide_k, whole, l->keys, l->values, v, &m);
        attend(qkv, whole, l->keys, l->values, v, &m, x);
        if (l->o.base.narrow) round_all(x, rows * wide_q, v->narrowed);
        adapted(&l->o, x, v, (Out){states, width, 1, (float)l->residual}, low);
        float *gate = qkv, *up = qkv + rows * inner;
        norms(&l->between, states, width, x, v);
        if (l->gate.base.narrow) round_all(x, rows * width, v->narrowed);
        adapted(&l->gate, x, v, (Out){gate, inner, 0, 1}, low);
        adapted(&l->up, x, v, (Out){up, inner, 0, 1}, low);
        gated(gate, up, rows * inner, v->threads);
        if (l->down.base.narrow) round_all(gate, rows * inner, v->narrowed);
        adapted(&l->down, gate, v, (Out){states, width, 1, (float)l->residual}, low);
    }
}
