/* Attention over a pack in bfloat16, forward and back: scores are computed in tiles and never leave the caches.
 *
 * All stands the other way round: a key is a line, a query a column, so that what belongs to a query (its largest score,
 * its sum, its gradient's product with its output) lies side by side for all queries of a tile, and shares are what the
 * next product reads, as they were written. Queries come in steps of some tokens, all heads that share a key head
 * together. Everything is as long as products need it; what is added for that has no share in anything.
 *
 * Sums are in fp32 and in an order that neither the number of threads nor other rows change. Shares are rounded before
 * they are products' factors, scores never are.
 */

#include "tiles.h"

/* Query rows that see the same spans of keys whole but for the last one, their own, of which a row sees no later ones:
 * `sees` says which (tokens of the span, steps: zero is not), where that is not all; `all` says so for every span. */
typedef struct {
    count row, rows, span, spans, all, steps;
    const uint8_t *sees;
} Block;

typedef struct {
    count begin, end;
} Span;

typedef struct { /* where the first number of a head and of its next token lie */
    bf16 *first;
    count head, row;
} States;

typedef struct {
    const Block *block;
    const Span *span;
    count blocks, first, tokens, key_heads, groups, width, threads;
    double scaling;
    States query, key, value, out;
    float *norms; /* (heads, tokens): the logarithm to base 2 of the sum of a query's powers */
    States d_out, d_query, d_key, d_value;
    char *room; /* of as many bytes as `room_of` or `room_back_of` says */
} Attention;

#ifdef __AVX512BF16__
#include <omp.h>

#define PARTS 2 /* of the blocks, each with sums of its own: what threads share out beside heads */
#define STRETCH 128 /* keys of a span that are looked at together */

/* ---- what is computed once for a key head: its states in rows, and numbers of one kind in lines ---- */

static bf16 *at(States states, count head, count token) {
    return states.first + head * states.head + token * states.row;
}

static void in_rows(States states, count head, count tokens, count width, bf16 *rows) {
    for (count t = 0; t < tokens; t++) memcpy(rows + t * width, at(states, head, t), (size_t)width * 2);
    memset(rows + tokens * width, 0, (size_t)width * 2 * 32);
}

static void in_lines(const bf16 *rows, count tokens, count width, count whole, bf16 *lines) {
    for (count t = 0; t < whole; t += 2 * LINE)
        for (count i = 0; i < width; i += 2 * LINE) {
            __m512i even[LINE], odd[LINE]; /* of tokens; then, line by line, two numbers of each */
            for (int r = 0; r < LINE; r++) {
                const count first = t + 2 * r, second = first + 1;
                even[r] = first < tokens ? _mm512_loadu_si512(rows + first * width + i) : _mm512_setzero_si512();
                odd[r] = second < tokens ? _mm512_loadu_si512(rows + second * width + i) : _mm512_setzero_si512();
            }
            turned(even);
            turned(odd);
            for (int r = 0; r < LINE; r++) {
                const __m512i low = _mm512_and_si512(even[r], _mm512_set1_epi32(0xffff));
                const __m512i high = _mm512_andnot_si512(_mm512_set1_epi32(0xffff), odd[r]);
                bf16 *line_of = lines + (i + 2 * r) * whole + t;
                _mm512_storeu_si512(line_of, _mm512_or_si512(low, _mm512_slli_epi32(odd[r], 16)));
                _mm512_storeu_si512(line_of + whole, _mm512_or_si512(high, _mm512_srli_epi32(even[r], 16)));
            }
        }
}

/* ---- a step of queries: `tokens` of a block from `first` on, `step` with what is added, `groups` heads ---- */

typedef struct {
    const Attention *all;
    const Block *block;
    count head, first, tokens, step, columns;
} Step;

static count step_of(const Attention *all, const Block *block) {
    count wanted = 128 / (32 * all->groups), most = UP_TO(block->rows, BROAD);
    wanted = 32 * (wanted < 1 ? 1 : wanted);
    return wanted < most ? wanted : most;
}

static count token_of(const Step *now) { return now->block->row + now->first; }

/* Rows of states as pairs of numbers, a column each: (width / 2, columns). */
static void in_columns(const Step *now, States states, count width, uint32_t *pairs) {
    for (count group = 0; group < now->all->groups; group++)
        for (count t = 0; t < now->step; t += LINE)
            for (count i = 0; i < width; i += 2 * LINE) {
                __m512i x[LINE];
                for (int r = 0; r < LINE; r++)
                    x[r] = t + r < now->tokens
                        ? _mm512_loadu_si512(at(states, now->head * now->all->groups + group, token_of(now) + t + r) + i)
                        : _mm512_setzero_si512();
                turned(x);
                for (int r = 0; r < LINE; r++)
                    _mm512_storeu_si512(pairs + (i / 2 + r) * now->columns + group * now->step + t, x[r]);
            }
}

/* Rows of states, two of them side by side: (columns / 2, width). */
static void in_pairs(const Step *now, States states, count width, uint32_t *pairs) {
    for (count group = 0; group < now->all->groups; group++)
        for (count t = 0; t < now->step; t += 2)
            for (count i = 0; i < width; i += LINE) {
                const count head = now->head * now->all->groups + group, token = token_of(now) + t;
                const __m256i none = _mm256_setzero_si256();
                const __m256i *first = (const __m256i *)(at(states, head, token) + i);
                const __m256i *second = (const __m256i *)(at(states, head, token + 1) + i);
                _mm512_storeu_si512(pairs + (group * now->step + t) / 2 * width + i,
                                    paired(t < now->tokens ? _mm256_loadu_si256(first) : none,
                                           t + 1 < now->tokens ? _mm256_loadu_si256(second) : none));
            }
}

/* Columns of numbers (width, columns), each times `by` and its own factor, to rows of states. */
static void to_rows(const Step *now, const float *columns, count width, const float *own, float by, States states) {
    for (count group = 0; group < now->all->groups; group++)
        for (count t = 0; t < now->tokens; t += LINE) {
            const count from = group * now->step + t;
            const line factor =
                own ? _mm512_mul_ps(_mm512_loadu_ps(own + from), _mm512_set1_ps(by)) : _mm512_set1_ps(by);
            for (count i = 0; i < width; i += LINE) {
                __m512i x[LINE];
                for (int r = 0; r < LINE; r++)
                    x[r] = (__m512i)_mm512_mul_ps(_mm512_loadu_ps(columns + (i + r) * now->columns + from), factor);
                turned(x);
                for (int r = 0; r < LINE && t + r < now->tokens; r++) {
                    bf16 *to = at(states, now->head * now->all->groups + group, token_of(now) + t + r) + i;
                    put_line(to, (line)x[r]);
                }
            }
        }
}

/* How many keys of a span a step sees at most. */
static count seen(const Step *now, count span) {
    const Span *of = now->all->span + now->block->span + span;
    const count length = of->end - of->begin, so_far = now->first + now->tokens;
    return span == now->block->spans - 1 && so_far < length ? so_far : length;
}

/* Which of a line's queries see a key; `of_all` is the key's number among those of all spans. */
static inline __mmask16 sees(const Step *now, count span, count key, count of_all, count column) {
    const Block *block = now->block;
    const count t = now->first + column % now->step;
    if (block->all || (block->sees && span == block->spans - 1)) {
        const uint8_t *told = block->sees + (block->all ? of_all : key) * block->steps + t;
        return _mm_test_epi8_mask(_mm_loadu_si128((const __m128i *)told), _mm_set1_epi8(-1));
    }
    if (span < block->spans - 1 || t >= key) return 0xffff;
    return key - t >= LINE ? 0 : (__mmask16)(0xffff << (key - t));
}

/* ---- forward ---- */

typedef struct {
    uint32_t *query, *shares;
    float *scores, *out, *most, *sum, *fade;
} Forward;

/* Scores of a stretch of keys to powers of two, below the largest score so far, as shares that are not divided yet; and
 * by how much those of stretches before fade as the largest grows. */
static void shares_of(const Step *now, count span, count from, count length, count of_all, const Forward *in) {
    const line by = _mm512_set1_ps((float)(now->all->scaling * 1.4426950408889634)), none = _mm512_set1_ps(-LARGE);
    const count columns = now->columns;
    for (count c = 0; c < columns; c += LINE) {
        const line before = _mm512_loadu_ps(in->most + c);
        line most = before, sum = _mm512_setzero_ps();
        for (count key = 0; key < UP_TO(length, TALL); key++) {
            const __mmask16 visible = key < length ? sees(now, span, from + key, of_all + from + key, c) : 0;
            float *score = in->scores + key * columns + c;
            const line x = _mm512_mask_mul_ps(none, visible, _mm512_loadu_ps(score), by);
            _mm512_storeu_ps(score, x);
            most = _mm512_max_ps(most, x);
        }
        for (count key = 0; key < UP_TO(length, TALL); key += 2) {
            const float *score = in->scores + key * columns + c;
            const line first = power(_mm512_sub_ps(_mm512_loadu_ps(score), most));
            const line second = power(_mm512_sub_ps(_mm512_loadu_ps(score + columns), most));
            sum = _mm512_add_ps(sum, _mm512_add_ps(first, second));
            _mm512_storeu_si512(in->shares + key / 2 * columns + c, paired(narrow(first), narrow(second)));
        }
        const line fade = power(_mm512_sub_ps(before, most));
        _mm512_storeu_ps(in->most + c, most);
        _mm512_storeu_ps(in->fade + c, fade);
        _mm512_storeu_ps(in->sum + c, _mm512_fmadd_ps(_mm512_loadu_ps(in->sum + c), fade, sum));
    }
}

static void read_step(const Step *now, const bf16 *keys, const bf16 *value_lines, count whole, const Forward *in) {
    const Attention *all = now->all;
    const count columns = now->columns, width = all->width;
    const Span *spans = all->span + now->block->span;
    in_columns(now, all->query, width, in->query);
    for (count c = 0; c < columns; c++) in->most[c] = -LARGE, in->sum[c] = 0;
    count of_all = 0, is_first = 1;
    for (count s = 0; s < now->block->spans; s++) {
        const count length = seen(now, s);
        for (count from = 0; from < length; from += STRETCH, is_first = 0) {
            const count some = length - from < STRETCH ? length - from : STRETCH, key = spans[s].begin + from;
            product(UP_TO(some, TALL), columns, width, keys + key * width, width, in->query, columns, in->scores, columns, 0);
            shares_of(now, s, from, some, of_all, in);
            if (!is_first)
                for (count i = 0; i < width; i++)
                    for (count c = 0; c < columns; c++) in->out[i * columns + c] *= in->fade[c];
            product(width, columns, UP_TO(some, TALL), value_lines + key, whole, in->shares, columns, in->out, columns,
                    !is_first);
        }
        of_all += spans[s].end - spans[s].begin;
    }
    for (count c = 0; c < columns; c++) in->fade[c] = 1 / in->sum[c];
    to_rows(now, in->out, width, in->fade, 1.f, all->out);
    for (count group = 0; group < all->groups; group++)
        for (count t = 0; t < now->tokens; t++) {
            const count column = group * now->step + t;
            all->norms[(now->head * all->groups + group) * all->tokens + token_of(now) + t] =
                in->most[column] + log2f(in->sum[column]);
        }
}

typedef struct {
    bf16 *keys, *values, *lines;
} Head;

static count columns_of(const Attention *all) { return all->groups < 4 ? 128 : 32 * all->groups; }

static count whole_of(const Attention *all) { return WHOLE(all->tokens) + 32; }

static Head *rooms_of_heads(const Attention *all, char **room) {
    Head *heads = take(room, all->key_heads * (count)sizeof(Head));
    for (count h = 0; h < all->key_heads; h++) {
        const Head head = {take(room, (all->tokens + 32) * all->width * 2), take(room, (all->tokens + 32) * all->width * 2),
                           take(room, whole_of(all) * all->width * 2)};
        if (all->room) heads[h] = head;
    }
    return heads;
}

static void fill(const Attention *all, Head *heads, int back) {
    _Pragma("omp parallel for num_threads(all->threads) if (all->threads > 1)")
    for (count h = 0; h < all->key_heads; h++) {
        in_rows(all->key, h, all->tokens, all->width, heads[h].keys);
        in_rows(all->value, h, all->tokens, all->width, heads[h].values);
        in_lines(back ? heads[h].keys : heads[h].values, all->tokens, all->width, whole_of(all), heads[h].lines);
    }
}

/* The first block of each part, so that parts hold about the same number of scores. */
static void parts_of(const Attention *all, count begins[PARTS + 1]) {
    double scores[2] = {0, 0};
    for (int pass = 0; pass < 2; pass++) {
        count part = 0;
        begins[0] = 0;
        for (count b = 0; b < all->blocks; b++) {
            const Block *block = all->block + b;
            double keys = 0;
            for (count s = 0; s < block->spans; s++)
                keys += (double)(all->span[block->span + s].end - all->span[block->span + s].begin);
            if (pass && scores[1] * PARTS >= scores[0] * (double)(part + 1) && part + 1 < PARTS) begins[++part] = b;
            scores[pass] += keys * (double)block->rows;
        }
        while (part < PARTS) begins[++part] = all->blocks;
    }
}

/* Every step of a part's blocks, in turn; those of tokens that stand before the first one that is asked for are left. */
#define EACH_STEP(begins, part)                                                                                       \
    for (const Block *block = all->block + (begins)[part]; block < all->block + (begins)[(part) + 1]; block++)        \
        for (count step = step_of(all, block), first = 0; first < block->rows; first += step)                         \
            if (block->row + (block->rows < first + step ? block->rows : first + step) > all->first)

static Step step_at(const Attention *all, const Block *block, count head, count first, count step) {
    const count left = block->rows - first, tokens = left < step ? left : step, whole = UP_TO(tokens, BROAD);
    return (Step){all, block, head, first, tokens, whole, whole * all->groups};
}

static Forward rooms_forward(const Attention *all, char **room) {
    const count columns = columns_of(all), line_of = columns * 4;
    return (Forward){take(room, all->width / 2 * line_of), take(room, STRETCH / 2 * line_of),
                     take(room, STRETCH * line_of), take(room, all->width * line_of), take(room, line_of),
                     take(room, line_of), take(room, line_of)};
}

count room_of(const Attention *all) {
    Attention none = *all;
    char *room = none.room = NULL;
    rooms_of_heads(&none, &room);
    for (count thread = 0; thread < all->threads; thread++) rooms_forward(all, &room);
    return (count)room;
}

void attend(const Attention *all) {
    char *room = all->room;
    count begins[PARTS + 1];
    parts_of(all, begins);
    Head *heads = rooms_of_heads(all, &room);
    fill(all, heads, 0);
    _Pragma("omp parallel num_threads(all->threads) if (all->threads > 1)") {
        char *own = room;
        Forward in = rooms_forward(all, &own);
        for (int thread = omp_get_thread_num(); thread > 0; thread--) in = rooms_forward(all, &own);
        begin_products();
        _Pragma("omp for schedule(dynamic)") for (count task = 0; task < all->key_heads * PARTS; task++)
            EACH_STEP(begins, task % PARTS) {
                const Step now = step_at(all, block, task / PARTS, first, step);
                read_step(&now, heads[now.head].keys, heads[now.head].lines, whole_of(all), &in);
            }
        end_products();
    }
}

/* ---- back ---- */

typedef struct {
    uint32_t *query, *d_out, *query_pairs, *d_out_pairs, *d_score_pairs;
    float *scores, *d_shares, *d_query, *norms, *along;
    bf16 *shares, *d_scores;
    float *d_keys, *d_values;
} Back;

/* Each query's norm, and its gradient's product with its output; what is added sees nothing. */
static void sums_of(const Step *now, const Back *in) {
    const Attention *all = now->all;
    for (count group = 0; group < all->groups; group++)
        for (count t = 0; t < now->step; t++) {
            const count head = now->head * all->groups + group, token = token_of(now) + t;
            line sum = _mm512_setzero_ps();
            if (t < now->tokens)
                for (count i = 0; i < all->width; i += LINE)
                    sum = _mm512_fmadd_ps(wide_at(at(all->out, head, token) + i),
                                          wide_at(at(all->d_out, head, token) + i), sum);
            in->along[group * now->step + t] = _mm512_reduce_add_ps(sum);
            in->norms[group * now->step + t] = t < now->tokens ? all->norms[head * all->tokens + token] : LARGE;
        }
}

/* Shares of a stretch of keys from `from` on, and the gradients of their scores. */
static void slopes_of(const Step *now, count span, count from, count length, count of_all, const Back *in) {
    const line by = _mm512_set1_ps((float)(now->all->scaling * 1.4426950408889634)), none = _mm512_set1_ps(-LARGE);
    const count columns = now->columns;
    for (count key = 0; key < UP_TO(length, TALL); key += 2)
        for (count c = 0; c < columns; c += LINE) {
            const line norm = _mm512_loadu_ps(in->norms + c), along = _mm512_loadu_ps(in->along + c);
            __m256i slope[2];
            for (int r = 0; r < 2; r++) {
                const count here = (key + r) * columns + c;
                const __mmask16 visible =
                    key + r < length ? sees(now, span, from + key + r, of_all + from + key + r, c) : 0;
                const line x = _mm512_mask_mul_ps(none, visible, _mm512_loadu_ps(in->scores + here), by);
                const line share = power(_mm512_sub_ps(x, norm));
                slope[r] = narrow(_mm512_mul_ps(share, _mm512_sub_ps(_mm512_loadu_ps(in->d_shares + here), along)));
                put_line(in->shares + here, share);
                _mm256_storeu_si256((__m256i *)(in->d_scores + here), slope[r]);
            }
            _mm512_storeu_si512(in->d_score_pairs + key / 2 * columns + c, paired(slope[0], slope[1]));
        }
}

/* `d_keys` and `d_values` begin with token `begin`. */
static void back_step(const Step *now, const Head *head, count whole, count begin, const Back *in) {
    const Attention *all = now->all;
    const count columns = now->columns, width = all->width;
    const Span *spans = all->span + now->block->span;
    in_columns(now, all->query, width, in->query);
    in_columns(now, all->d_out, width, in->d_out);
    in_pairs(now, all->query, width, in->query_pairs);
    in_pairs(now, all->d_out, width, in->d_out_pairs);
    sums_of(now, in);
    count of_all = 0, is_first = 1;
    for (count s = 0; s < now->block->spans; s++) {
        const count length = seen(now, s);
        for (count from = 0; from < length; from += STRETCH, is_first = 0) {
            const count keys = length - from < STRETCH ? length - from : STRETCH, padded = UP_TO(keys, TALL);
            const count key = spans[s].begin + from;
            product(padded, columns, width, head->keys + key * width, width, in->query, columns, in->scores, columns, 0);
            product(padded, columns, width, head->values + key * width, width, in->d_out, columns, in->d_shares, columns,
                    0);
            slopes_of(now, s, from, keys, of_all, in);
            product(padded, width, columns, in->shares, columns, in->d_out_pairs, width,
                    in->d_values + (key - begin) * width, width, 1);
            product(padded, width, columns, in->d_scores, columns, in->query_pairs, width,
                    in->d_keys + (key - begin) * width, width, 1);
            product(width, columns, padded, head->lines + key, whole, in->d_score_pairs, columns, in->d_query, columns,
                    !is_first);
        }
        of_all += spans[s].end - spans[s].begin;
    }
    to_rows(now, in->d_query, width, NULL, (float)all->scaling, all->d_query);
}

/* Which tokens the blocks of a part see: from the first of them up to, not with, the last. */
static Span range_of(const Attention *all, const count *begins, count part) {
    Span range = {all->tokens, 0};
    for (count b = begins[part]; b < begins[part + 1]; b++)
        for (count s = 0; s < all->block[b].spans; s++) {
            const Span *span = all->span + all->block[b].span + s;
            range.begin = span->begin < range.begin ? span->begin : range.begin;
            range.end = span->end > range.end ? span->end : range.end;
        }
    return range.end ? range : (Span){0, 0};
}

/* Sums of all parts, times a factor, to rows of states. */
static void to_states(const Attention *all, count h, float *const sums[PARTS], const Span ranges[PARTS], float by,
                      States states) {
    for (count t = 0; t < all->tokens; t++)
        for (count i = 0; i < all->width; i += LINE) {
            line sum = _mm512_setzero_ps();
            for (count part = 0; part < PARTS; part++)
                if (ranges[part].begin <= t && t < ranges[part].end)
                    sum = _mm512_add_ps(sum,
                                        _mm512_loadu_ps(sums[part] + (t - ranges[part].begin) * all->width + i));
            put_line(at(states, h, t) + i, _mm512_mul_ps(sum, _mm512_set1_ps(by)));
        }
}

static Back rooms_back(const Attention *all, char **room) {
    const count columns = columns_of(all), words = all->width / 2 * columns * 4, scores = STRETCH * columns;
    return (Back){take(room, words), take(room, words), take(room, words), take(room, words), take(room, scores * 2),
                  take(room, scores * 4), take(room, scores * 4), take(room, words * 2), take(room, columns * 4),
                  take(room, columns * 4), take(room, scores * 2), take(room, scores * 2), NULL, NULL};
}

/* Bytes of one part's sums of one key head. */
static count sums_bytes(const Attention *all, Span range) { return (range.end - range.begin + 32) * all->width * 4; }

count room_back_of(const Attention *all) {
    Attention none = *all;
    char *room = none.room = NULL;
    count begins[PARTS + 1];
    parts_of(all, begins);
    rooms_of_heads(&none, &room);
    for (count task = 0; task < all->key_heads * PARTS; task++)
        for (int of = 0; of < 2; of++) take(&room, sums_bytes(all, range_of(all, begins, task % PARTS)));
    for (count thread = 0; thread < all->threads; thread++) rooms_back(all, &room);
    return (count)room;
}

void attend_back(const Attention *all) {
    const count tasks = all->key_heads * PARTS;
    char *room = all->room;
    count begins[PARTS + 1];
    Span ranges[PARTS];
    float *d_keys[tasks], *d_values[tasks];
    parts_of(all, begins);
    for (count part = 0; part < PARTS; part++) ranges[part] = range_of(all, begins, part);
    Head *heads = rooms_of_heads(all, &room);
    for (count task = 0; task < tasks; task++) {
        d_keys[task] = take(&room, sums_bytes(all, ranges[task % PARTS]));
        d_values[task] = take(&room, sums_bytes(all, ranges[task % PARTS]));
    }
    fill(all, heads, 1);
    _Pragma("omp parallel num_threads(all->threads) if (all->threads > 1)") {
        char *own = room;
        Back in = rooms_back(all, &own);
        for (int thread = omp_get_thread_num(); thread > 0; thread--) in = rooms_back(all, &own);
        begin_products();
        _Pragma("omp for schedule(dynamic)") for (count task = 0; task < tasks; task++) {
            const Span range = ranges[task % PARTS];
            in.d_keys = memset(d_keys[task], 0, (size_t)sums_bytes(all, range));
            in.d_values = memset(d_values[task], 0, (size_t)sums_bytes(all, range));
            EACH_STEP(begins, task % PARTS) {
                const Step now = step_at(all, block, task / PARTS, first, step);
                back_step(&now, &heads[now.head], whole_of(all), range.begin, &in);
            }
        }
        end_products();
    }
    _Pragma("omp parallel for num_threads(all->threads) if (all->threads > 1)")
    for (count h = 0; h < all->key_heads; h++) {
        to_states(all, h, d_keys + h * PARTS, ranges, (float)all->scaling, all->d_key);
        to_states(all, h, d_values + h * PARTS, ranges, 1.f, all->d_value);
    }
}

/* Whether this processor computes so. */
int is_able(void) { return granted(); }
#else
int is_able(void) { return 0; }
count room_of(const Attention *all) { return (void)all, 0; }
count room_back_of(const Attention *all) { return (void)all, 0; }
void attend(const Attention *all) { (void)all; }
void attend_back(const Attention *all) { (void)all; }
#endif
