/* What a transformer computes between its matrix products, on rows of bfloat16: one pass each, sums in fp32, rounded once.
 *
 * A row is `width` numbers that lie side by side; rows lie `stride` numbers apart. Every row is computed alone, so that
 * the number of threads changes no bit. Loops are left to the compiler to make vectors of.
 */

#include "tiles.h"

#define ROWS _Pragma("omp parallel for if (rows * width > 1 << 16)") for (count row = 0; row < rows; row++)
#define EACH _Pragma("omp simd") for (count i = 0; i < width; i++)
#define REST _Pragma("omp simd") for (count i = done; i < width; i++)
#define SUM for (count i = 0; i < width; i++) /* in any order: see the flags */

static inline float widened(bf16 x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

static inline bf16 rounded(float x) { /* to the nearest, ties to even */
    union { float value; uint32_t bits; } u = {x};
    return (bf16)((u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16);
}

static inline void put(count width, const float *from, bf16 *to) {
    count i = 0;
#ifdef __AVX512BF16__
    for (; i + 16 <= width; i += 16)
        put_line(to + i, _mm512_loadu_ps(from + i));
#endif
    for (; i < width; i++) to[i] = rounded(from[i]);
}

/* e^x to a few units of fp32's last place: 2^n times a polynomial (Cephes) on half a power of two around it. */
static inline float exp_of(float x) {
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

/* out = x / rms(x) * weight; `scale` (rows) keeps 1 / rms. */
void norm(count rows, count width, const bf16 *x, count x_stride, const bf16 *weight, float epsilon, bf16 *out,
          float *scale) {
    ROWS {
        const bf16 *a = x + row * x_stride;
        float v[width], squares = 0;
        SUM {
            v[i] = widened(a[i]);
            squares += v[i] * v[i];
        }
        float s = scale[row] = 1 / sqrtf(squares / width + epsilon);
        EACH v[i] *= s * widened(weight[i]);
        put(width, v, out + row * width);
    }
}

void norm_back(count rows, count width, const bf16 *grad, count grad_stride, const bf16 *x, count x_stride,
               const bf16 *weight, const float *scale, bf16 *d_x) {
    ROWS {
        const bf16 *a = x + row * x_stride, *g = grad + row * grad_stride;
        float v[width], along = 0, s = scale[row];
        SUM {
            v[i] = widened(g[i]) * widened(weight[i]);
            along += v[i] * widened(a[i]);
        }
        along *= s * s / width;
        EACH v[i] = (v[i] - widened(a[i]) * along) * s;
        put(width, v, d_x + row * width);
    }
}

#ifdef __AVX512BF16__
static inline line sigmoid(line x) { /* 2^-126 at least: a step of Newton's makes no number of an infinite divisor */
    const line power_of = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    const line below = _mm512_add_ps(_mm512_set1_ps(1.f), power(_mm512_min_ps(_mm512_set1_ps(126.f), power_of)));
    const line near = _mm512_rcp14_ps(below);
    return _mm512_mul_ps(near, _mm512_fnmadd_ps(below, near, _mm512_set1_ps(2.f)));
}
#endif

/* out = gate * sigmoid(gate) * up */
void gated(count rows, count width, const bf16 *gate, count gate_stride, const bf16 *up, count up_stride, bf16 *out) {
    ROWS {
        const bf16 *a = gate + row * gate_stride, *b = up + row * up_stride;
        bf16 *to = out + row * width;
        count done = 0;
#ifdef __AVX512BF16__
        for (; done + LINE <= width; done += LINE) {
            const line x = wide_at(a + done);
            put_line(to + done, _mm512_mul_ps(_mm512_mul_ps(x, sigmoid(x)), wide_at(b + done)));
        }
#endif
        REST {
            float x = widened(a[i]);
            to[i] = rounded(x / (1 + exp_of(-x)) * widened(b[i]));
        }
    }
}

void gated_back(count rows, count width, const bf16 *grad, count grad_stride, const bf16 *gate, count gate_stride,
                const bf16 *up, count up_stride, bf16 *d_gate, bf16 *d_up, count d_stride) {
    ROWS {
        const bf16 *a = gate + row * gate_stride, *b = up + row * up_stride, *g = grad + row * grad_stride;
        bf16 *to_gate = d_gate + row * d_stride, *to_up = d_up + row * d_stride;
        count done = 0;
#ifdef __AVX512BF16__
        for (const line one = _mm512_set1_ps(1.f); done + LINE <= width; done += LINE) {
            const line x = wide_at(a + done), share = sigmoid(x), passed = _mm512_mul_ps(wide_at(g + done), share);
            const line slope = _mm512_fmadd_ps(x, _mm512_sub_ps(one, share), one);
            put_line(to_gate + done, _mm512_mul_ps(_mm512_mul_ps(passed, wide_at(b + done)), slope));
            put_line(to_up + done, _mm512_mul_ps(passed, x));
        }
#endif
        REST {
            float x = widened(a[i]), share = 1 / (1 + exp_of(-x)), passed = widened(g[i]) * share;
            to_gate[i] = rounded(passed * widened(b[i]) * (1 + x * (1 - share)));
            to_up[i] = rounded(passed * x);
        }
    }
}

/* Rotary positions: numbers i and i + width / 2 of each head turn by an angle of their token's, or `back` by minus that.
 * States lie (heads, tokens, width) at any strides, cos and sin (tokens, width); out is (tokens, heads, width). */
void rotate(count rows, count heads, count width, const bf16 *x, count head_stride, count row_stride, const bf16 *cosine,
            const bf16 *sine, count back, bf16 *out) {
    count half = width / 2;
    _Pragma("omp parallel for if (rows * heads * width > 1 << 16)") for (count row = 0; row < rows; row++) {
        const bf16 *c = cosine + row * width, *s = sine + row * width, *s_low = s + (back ? half : 0);
        const bf16 *s_high = s + (back ? 0 : half);
        float turn = back ? -1 : 1, v[width];
        for (count head = 0; head < heads; head++) {
            const bf16 *low = x + head * head_stride + row * row_stride, *high = low + half;
            for (count i = 0; i < half; i++) {
                v[i] = widened(low[i]) * widened(c[i]) - turn * widened(high[i]) * widened(s_low[i]);
                v[i + half] = widened(high[i]) * widened(c[i + half]) + turn * widened(low[i]) * widened(s_high[i]);
            }
            put(width, v, out + (row * heads + head) * width);
        }
    }
}

/* Scores become shares, in their place. Rows come in `groups` that share a line of `bias` (lines, width - seen), which
 * is added to the scores after the first `seen`; the lines begin anew for each head. */
void softmax(count rows, count width, bf16 *scores, const bf16 *bias, count groups, count lines, count seen) {
    ROWS {
        bf16 *a = scores + row * width;
        const bf16 *added = bias + row / groups % lines * (width - seen) - seen;
        count whole = (width + 15) / 16 * 16;
        float v[whole], most = -INFINITY, sum = 0;
        EACH v[i] = widened(a[i]);
        for (count i = seen; i < width; i++) v[i] += widened(added[i]);
        for (count i = width; i < whole; i++) v[i] = -INFINITY;
        _Pragma("omp simd reduction(max : most)") for (count i = 0; i < whole; i++) most = v[i] > most ? v[i] : most;
        _Pragma("omp simd reduction(+ : sum)") for (count i = 0; i < whole; i++) {
            v[i] = exp_of(v[i] - most);
            sum += v[i];
        }
        float share = 1 / sum;
        EACH v[i] *= share;
        put(width, v, a);
    }
}

/* Gradients of shares become gradients of scores, in their place; `along` (rows) is their product with the shares. */
void softmax_back(count rows, count width, bf16 *grad, const bf16 *shares, const float *along) {
    ROWS {
        bf16 *g = grad + row * width;
        const bf16 *a = shares + row * width;
        float v[width], s = along[row];
        EACH v[i] = (widened(g[i]) - s) * widened(a[i]);
        put(width, v, g);
    }
}

/* Log-probabilities of one target a row, from its logits; into `first`, unless it is null, whether none is likelier.
 * Where `slopes`, how they move with the logits comes in the logits' place: onehot(target) - shares, times the row's
 * `by` unless that is null. */
void chosen(count rows, count width, bf16 *logits, const count *targets, const float *by, count slopes, float *found,
            uint8_t *first) {
    ROWS {
        bf16 *a = logits + row * width, *target = a + targets[row];
        float most = -INFINITY, sum = 0, at = widened(*target), v[256];
        _Pragma("omp simd reduction(max : most)") for (count i = 0; i < width; i++)
            most = widened(a[i]) > most ? widened(a[i]) : most;
        _Pragma("omp simd reduction(+ : sum)") for (count i = 0; i < width; i++) sum += exp_of(widened(a[i]) - most);
        found[row] = at - most - logf(sum);
        if (first) first[row] = at >= most;
        if (!slopes) continue;
        float factor = by ? by[row] : 1, share = factor / sum;
        for (count begin = 0; begin < width; begin += 256) {
            count some = width - begin < 256 ? width - begin : 256;
            _Pragma("omp simd") for (count i = 0; i < some; i++) v[i] = -exp_of(widened(a[begin + i]) - most) * share;
            put(some, v, a + begin);
        }
        *target = rounded(factor - exp_of(at - most) * share);
    }
}
