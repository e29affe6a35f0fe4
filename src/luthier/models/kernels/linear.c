/* Linear layers with low-rank adapters in bfloat16, forward and back, by AVX-512's products of pairs.
 *
 *     out = x W' + s (x A') B'
 *
 * A few layers (parts) may read one input. Weights are read as they lie; what they are multiplied with is laid out anew,
 * tile by tile of 32 columns, two lines of the summed dimension side by side, so that a tile is read straight through.
 * Base and adapter are summed together in fp32 and rounded once; sums are in an order that no number of threads changes.
 */

#include "tiles.h"

typedef struct {
    count outs, rank; /* of this layer */
    const bf16 *weight, *up; /* (outs, width) and (outs, rank), times the adapter's factor; rows are `joint_row` apart */
    bf16 *out; /* (tokens, outs), rows `out_row` apart */
    const bf16 *grad; /* of the output, rows `grad_row` apart */
    count out_row, grad_row;
    double scale;
    float *d_up; /* (outs, rank) */
} Part;

typedef struct {
    const Part *part;
    count parts, tokens, width, ranks, joint_row, x_row, threads;
    const bf16 *x, *down; /* (tokens, width), (ranks, width) */
    bf16 *inside; /* (ranks, whole tokens): x A', turned, for the way back */
    bf16 *d_x; /* (tokens, width), or null where nothing below learns */
    float *d_down; /* (ranks, width) */
    char *room;
} Linear;

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#include <omp.h>

#define TILE (2 * LINE)

typedef struct { /* lines of a, each times columns of b, summed over `k` numbers */
    const bf16 *a;
    count a_row;
    const uint32_t *b;
    count k;
} Term;

/* TALL lines by 32 columns of the terms' sum. */
static inline void tile(const Term *term, count terms, float *c) {
    line sum[TALL][2];
    for (int r = 0; r < TALL; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (count t = 0; t < terms; t++) {
        const bf16 *a = term[t].a;
        const uint32_t *b = term[t].b;
        const count a_row = term[t].a_row, k = term[t].k / 2;
        for (count l = 0; l < k; l++) {
            const __m512bh left = (__m512bh)_mm512_loadu_si512(b + l * TILE);
            const __m512bh right = (__m512bh)_mm512_loadu_si512(b + l * TILE + LINE);
            for (int r = 0; r < TALL; r++) {
                uint32_t pair;
                memcpy(&pair, a + r * a_row + 2 * l, 4);
                const __m512bh twice = (__m512bh)_mm512_set1_epi32((int)pair);
                sum[r][0] = _mm512_dpbf16_ps(sum[r][0], twice, left);
                sum[r][1] = _mm512_dpbf16_ps(sum[r][1], twice, right);
            }
        }
    }
    for (int r = 0; r < TALL; r++) {
        _mm512_storeu_ps(c + r * TILE, sum[r][0]);
        _mm512_storeu_ps(c + r * TILE + LINE, sum[r][1]);
    }
}

/* Rows of numbers as a tile's columns: up to 32 rows, (k / 2, 32) pairs of theirs. */
static void columns_of(const bf16 *rows, count row, count some, count k, uint32_t *pairs) {
    for (count half = 0; half < TILE; half += LINE)
        for (count i = 0; i < k; i += 2 * LINE) {
            const count lines = k - i < 2 * LINE ? (k - i) / 2 : LINE;
            const __mmask16 there = (__mmask16)((1u << lines) - 1);
            __m512i x[LINE];
            for (count r = 0; r < LINE; r++)
                x[r] = half + r < some ? _mm512_maskz_loadu_epi32(there, rows + (half + r) * row + i)
                                       : _mm512_setzero_si512();
            turned(x);
            for (count r = 0; r < lines; r++) _mm512_storeu_si512(pairs + (i / 2 + r) * TILE + half, x[r]);
        }
}

/* Rows of numbers, two of them side by side: of `some` rows 32 columns a tile, (k / 2, 32) pairs; rows to k are zero. */
static void pairs_of(const bf16 *rows, count row, count some, count k, count tiles, count words, uint32_t *pairs) {
    const __m256i none = _mm256_setzero_si256();
    for (count l = 0; l < k; l += 2)
        for (count j = 0; j < tiles; j++)
            for (count half = 0; half < TILE; half += LINE) {
                const __m256i *first = (const __m256i *)(rows + l * row + j * TILE + half);
                const __m256i *second = (const __m256i *)(rows + (l + 1) * row + j * TILE + half);
                _mm512_storeu_si512(pairs + j * words + l / 2 * TILE + half,
                                    paired(l < some ? _mm256_loadu_si256(first) : none,
                                           l + 1 < some ? _mm256_loadu_si256(second) : none));
            }
}

/* 32 by 32 numbers turned, to `some` rows of 32. */
static void turn(const float *c, count some, bf16 *to, count to_row) {
    for (count i = 0; i < TILE; i += LINE)
        for (count j = 0; j < some; j += LINE) {
            __m512i x[LINE];
            for (int r = 0; r < LINE; r++) x[r] = _mm512_loadu_si512(c + (i + r) * TILE + j);
            turned(x);
            for (count r = 0; r < LINE && j + r < some; r++) put_line(to + (j + r) * to_row + i, (line)x[r]);
        }
}

static count tiles_of(count columns) { return (columns + TILE - 1) / TILE; }

/* How many tiles of so many words are laid out together, up to `most`: they are to stay in a core's cache. */
static count at_once(count words, count most) {
    const count tiles = (640 << 10) / (words * 4);
    return tiles < 1 ? 1 : tiles < most ? tiles : most;
}

static count tile_words(const Linear *all) { return (all->width + all->ranks) / 2 * TILE; }

count linear_room_of(const Linear *all) {
    return tiles_of(all->tokens) * tile_words(all) * 4;
}

/* Lines of one tile of tokens that A makes, to pairs behind those of x, and to be kept. */
static void go_down(const Linear *all, count t, uint32_t *x) {
    const count whole = tiles_of(all->tokens) * TILE;
    for (count r = 0; r < all->ranks; r += TALL) {
        float c[TALL * TILE];
        const Term term = {all->down + r * all->width, all->width, x, all->width};
        tile(&term, 1, c);
        for (count l = 0; l < TALL; l += 2)
            for (count half = 0; half < TILE; half += LINE) {
                const __m256i first = narrow(_mm512_loadu_ps(c + l * TILE + half));
                const __m256i second = narrow(_mm512_loadu_ps(c + (l + 1) * TILE + half));
                _mm512_storeu_si512(x + (all->width + r + l) / 2 * TILE + half, paired(first, second));
                _mm256_storeu_si256((__m256i *)(all->inside + (r + l) * whole + t + half), first);
                _mm256_storeu_si256((__m256i *)(all->inside + (r + l + 1) * whole + t + half), second);
            }
    }
}

void linear(const Linear *all) {
    const count tiles = tiles_of(all->tokens), words = tile_words(all), some = at_once(words, tiles);
    uint32_t *laid = (uint32_t *)all->room;
    count groups = 0;
    for (count p = 0; p < all->parts; p++) groups += all->part[p].outs / TILE;
    _Pragma("omp parallel num_threads(all->threads) if (all->threads > 1)") {
        _Pragma("omp for schedule(static)") for (count j = 0; j < tiles; j++) {
            const count t = j * TILE, rows = all->tokens - t < TILE ? all->tokens - t : TILE;
            columns_of(all->x + t * all->x_row, all->x_row, rows, all->width, laid + j * words);
            go_down(all, t, laid + j * words);
        }
        for (count from = 0; from < tiles; from += some)
            _Pragma("omp for schedule(static)") for (count group = 0; group < groups; group++) {
                count p = 0, first = group * TILE, rank = 0;
                for (; first >= all->part[p].outs; p++) first -= all->part[p].outs, rank += all->part[p].rank;
                const Part *part = all->part + p;
                for (count j = from; j < tiles && j < from + some; j++) {
                    const uint32_t *x = laid + j * words;
                    const count t = j * TILE;
                    float c[TILE * TILE];
                    for (count i = 0; i < TILE; i += TALL) {
                        const count o = first + i;
                        const Term terms[2] = {
                            {part->weight + o * all->joint_row, all->joint_row, x, all->width},
                            {part->up + o * all->joint_row, all->joint_row, x + (all->width + rank) / 2 * TILE,
                             part->rank}};
                        tile(terms, 2, c + i * TILE);
                    }
                    turn(c, all->tokens - t < TILE ? all->tokens - t : TILE, part->out + t * part->out_row + first,
                         part->out_row);
                }
            }
    }
}

/* ---- back ---- */

typedef struct {
    bf16 *inner, *turned_inner; /* (whole tokens, ranks), (ranks, whole tokens): gradient of x A' */
    bf16 *last; /* TALL rows of each part's gradient and of `inner`, where fewer are left */
    uint32_t *laid; /* a thread's tile */
} Back;

#define TOGETHER 3 /* tiles at most */

static count outs_of(const Linear *all) {
    count outs = 0;
    for (count p = 0; p < all->parts; p++) outs += all->part[p].outs;
    return outs;
}

/* Words of a tile as long as what is summed for the input's gradient, and of one as long as the tokens. */
static count long_words(const Linear *all) { return (outs_of(all) + all->ranks) / 2 * TILE; }

static count token_words(const Linear *all) { return tiles_of(all->tokens) * TILE / 2 * TILE; }

static Back rooms_of(const Linear *all, char **room, count thread) {
    const count whole = tiles_of(all->tokens) * TILE;
    const count for_x = long_words(all) * at_once(long_words(all), TOGETHER);
    const count for_tokens = token_words(all) * at_once(token_words(all), TOGETHER);
    Back back = {take(room, whole * all->ranks * 2), take(room, whole * all->ranks * 2),
                 take(room, outs_of(all) * TALL * 2), NULL};
    for (count before = 0; before <= thread; before++)
        back.laid = take(room, (for_x > for_tokens ? for_x : for_tokens) * 4);
    return back;
}

count linear_room_back_of(const Linear *all) {
    char *room = NULL;
    rooms_of(all, &room, all->threads - 1);
    return (count)room;
}

/* TALL rows of a part's gradient from a token on: as they lie, or aside where fewer are left. */
static Term grads_at(const Linear *all, count p, const bf16 *last, count t) {
    const Part *part = all->part + p;
    if (t + TALL <= all->tokens) return (Term){part->grad + t * part->grad_row, part->grad_row, NULL, part->outs};
    for (count before = 0; before < p; before++) last += all->part[before].outs * TALL;
    return (Term){last, part->outs, NULL, part->outs};
}

static void set_aside(const Linear *all, bf16 *last) {
    const count t = all->tokens / TALL * TALL;
    for (count p = 0; p < all->parts; p++) {
        const Part *part = all->part + p;
        for (count r = 0; r < TALL; r++, last += part->outs)
            if (t + r < all->tokens) memcpy(last, part->grad + (t + r) * part->grad_row, (size_t)part->outs * 2);
            else memset(last, 0, (size_t)part->outs * 2);
    }
}

/* The gradient of x A': 32 columns at most at a time. */
static void come_up(const Linear *all, count p, count rank, count r, const Back *back) {
    const Part *part = all->part + p;
    const count whole = tiles_of(all->tokens) * TILE, some = part->rank - r < TILE ? part->rank - r : TILE;
    const __mmask16 left = (__mmask16)(some >= LINE ? 0xffff : (1u << some) - 1);
    const __mmask16 right = (__mmask16)(some >= TILE ? 0xffff : some > LINE ? (1u << (some - LINE)) - 1 : 0);
    const __mmask16 there[2] = {left, right};
    for (count l = 0; l < part->outs; l += 2)
        for (int half = 0; half < 2; half++) {
            const bf16 *row = part->up + l * all->joint_row + r + half * LINE;
            const __m256i first = _mm256_maskz_loadu_epi16(there[half], row);
            const __m256i second = _mm256_maskz_loadu_epi16(there[half], row + all->joint_row);
            _mm512_storeu_si512(back->laid + l / 2 * TILE + half * LINE, paired(first, second));
        }
    for (count t = 0; t < whole; t += TALL) {
        float c[TALL * TILE];
        memset(c, 0, sizeof c);
        if (t < all->tokens) {
            const Term grads = grads_at(all, p, back->last, t);
            product(TALL, UP_TO(some, LINE), grads.k, grads.a, grads.a_row, back->laid, TILE, c, TILE, 0);
        }
        for (count l = 0; l < TALL; l++) {
            bf16 row[TILE];
            put_line(row, _mm512_loadu_ps(c + l * TILE));
            put_line(row + LINE, _mm512_loadu_ps(c + l * TILE + LINE));
            for (count i = 0; i < some; i++) {
                back->inner[(t + l) * all->ranks + rank + r + i] = row[i];
                back->turned_inner[(rank + r + i) * whole + t + l] = row[i];
            }
        }
    }
}

/* A few tiles of columns of the input's gradient. */
static void come_to_x(const Linear *all, count column, count tiles, const Back *back) {
    const count words = long_words(all);
    uint32_t *laid = back->laid;
    for (count p = 0; p < all->parts; laid += all->part[p++].outs / 2 * TILE)
        pairs_of(all->part[p].weight + column, all->joint_row, all->part[p].outs, all->part[p].outs, tiles, words, laid);
    pairs_of(all->down + column, all->width, all->ranks, all->ranks, tiles, words, laid);
    for (count t = 0; t < all->tokens; t += TALL)
        for (count j = 0; j < tiles; j++) {
            Term terms[all->parts + 1];
            const uint32_t *of = back->laid + j * words;
            for (count p = 0; p < all->parts; of += all->part[p++].outs / 2 * TILE) {
                terms[p] = grads_at(all, p, back->last, t);
                terms[p].b = of;
            }
            terms[all->parts] = (Term){back->inner + t * all->ranks, all->ranks, of, all->ranks};
            float c[TALL * TILE];
            tile(terms, all->parts + 1, c);
            bf16 *to = all->d_x + t * all->width + column + j * TILE;
            for (count r = 0; r < TALL && t + r < all->tokens; r++, to += all->width)
                for (count half = 0; half < TILE; half += LINE) put_line(to + half, _mm512_loadu_ps(c + r * TILE + half));
        }
}

/* A few tiles of columns of the gradient of A. */
static void come_to_down(const Linear *all, count column, count tiles, const Back *back) {
    const count whole = tiles_of(all->tokens) * TILE, words = token_words(all);
    pairs_of(all->x + column, all->x_row, all->tokens, whole, tiles, words, back->laid);
    for (count r = 0; r < all->ranks; r += TALL)
        for (count j = 0; j < tiles; j++) {
            float c[TALL * TILE];
            const Term term = {back->turned_inner + r * whole, whole, back->laid + j * words, whole};
            tile(&term, 1, c);
            float *to = all->d_down + r * all->width + column + j * TILE;
            for (count l = 0; l < TALL; l++) memcpy(to + l * all->width, c + l * TILE, TILE * 4);
        }
}

/* A few tiles of rows of the gradient of B. */
static void come_to_up(const Linear *all, const Part *part, count rank, count first, count tiles, const Back *back) {
    const count whole = tiles_of(all->tokens) * TILE, words = token_words(all);
    pairs_of(part->grad + first, part->grad_row, all->tokens, whole, tiles, words, back->laid);
    for (count r = 0; r < part->rank; r += TALL)
        for (count j = 0; j < tiles; j++) {
            float c[TALL * TILE];
            const Term term = {all->inside + (rank + r) * whole, whole, back->laid + j * words, whole};
            tile(&term, 1, c);
            float *to = part->d_up + (first + j * TILE) * part->rank + r;
            for (count o = 0; o < TILE; o++, to += part->rank)
                for (count l = 0; l < TALL; l++) to[l] = c[l * TILE + o] * (float)part->scale;
        }
}

#define GROUPS(columns, some) (((columns) / TILE + (some) - 1) / (some))
#define LEFT(columns, at, some) ((columns) / TILE - (at) < (some) ? (columns) / TILE - (at) : (some))

void linear_back(const Linear *all) {
    const count for_x = at_once(long_words(all), TOGETHER), for_tokens = at_once(token_words(all), TOGETHER);
    count ups = 0, sides = 0;
    for (count p = 0; p < all->parts; p++) {
        ups += GROUPS(all->part[p].outs, for_tokens);
        sides += tiles_of(all->part[p].rank);
    }
    char *shared = all->room;
    set_aside(all, rooms_of(all, &shared, 0).last);
    _Pragma("omp parallel num_threads(all->threads) if (all->threads > 1)") {
        char *room = all->room;
        const Back back = rooms_of(all, &room, omp_get_thread_num());
        _Pragma("omp for schedule(dynamic)") for (count side = 0; side < sides; side++) {
            count p = 0, rank = 0, at = side;
            for (; at >= tiles_of(all->part[p].rank); p++) at -= tiles_of(all->part[p].rank), rank += all->part[p].rank;
            come_up(all, p, rank, at * TILE, &back);
        }
        if (all->d_x)
            _Pragma("omp for schedule(dynamic) nowait") for (count j = 0; j < all->width / TILE; j += for_x)
                come_to_x(all, j * TILE, LEFT(all->width, j, for_x), &back);
        _Pragma("omp for schedule(dynamic) nowait") for (count j = 0; j < all->width / TILE; j += for_tokens)
            come_to_down(all, j * TILE, LEFT(all->width, j, for_tokens), &back);
        _Pragma("omp for schedule(dynamic)") for (count up = 0; up < ups; up++) {
            count p = 0, at = up, rank = 0;
            for (; at >= GROUPS(all->part[p].outs, for_tokens); p++)
                at -= GROUPS(all->part[p].outs, for_tokens), rank += all->part[p].rank;
            const Part *part = all->part + p;
            at *= for_tokens;
            come_to_up(all, part, rank, at * TILE, LEFT(part->outs, at, for_tokens), &back);
        }
    }
}

int linear_is_able(void) { return 1; }
#else
int linear_is_able(void) { return 0; }
count linear_room_of(const Linear *all) { return (void)all, 0; }
count linear_room_back_of(const Linear *all) { return (void)all, 0; }
void linear(const Linear *all) { (void)all; }
void linear_back(const Linear *all) { (void)all; }
#endif
