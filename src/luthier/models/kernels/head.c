/* Log-probabilities of chosen tokens from hidden states in bfloat16, and how they move with the logits: logits are fp32,
 * and made in tiles, a word a line and a state a column, so that they never leave the caches.
 */

#include "tiles.h"

typedef struct {
    count rows, width, words, threads;
    const bf16 *states, *weight; /* (rows, width) and (words, width) */
    count state_row, weight_row, asked;
    const count *places, *targets; /* (asked): of which state which word is asked for, in the order of words */
    float *found;                  /* (asked) */
    uint8_t *first;                /* (asked), or null: whether no word is likelier */
    const float *by;               /* (rows), or null: what slopes are multiplied by */
    bf16 *slopes;                  /* (rows, words), or null: of each state's one target */
    char *room;
} Head;

#ifdef __AVX512BF16__
#include <omp.h>

#define PARTS 16 /* of the words: what threads share out */
#define STRETCH 128 /* words that are looked at together */
#define COLUMNS 384 /* states that are, too */
#define LOG2_E 1.4426950408889634f

typedef struct {
    count from, some, columns; /* states, and with what is added to them */
    uint32_t *pairs;           /* (width / 2, columns) */
    float *most, *sum;         /* (PARTS, columns), to base 2; after all parts the first of each tells the whole */
} Now;

typedef struct {
    float *scores; /* (STRETCH, columns) */
    bf16 *last;    /* (STRETCH, width): words that end before a whole number of lines */
} Own;

static count begin_of(const Head *all, count part) {
    const count stretches = (all->words + STRETCH - 1) / STRETCH;
    const count word = stretches * part / PARTS * STRETCH;
    return word < all->words ? word : all->words;
}

static void in_columns(const Head *all, const Now *now) {
    for (count c = 0; c < now->columns; c += LINE)
        for (count i = 0; i < all->width; i += 2 * LINE) {
            __m512i x[LINE];
            for (int r = 0; r < LINE; r++)
                x[r] = c + r < now->some
                    ? _mm512_loadu_si512(all->states + (now->from + c + r) * all->state_row + i)
                    : _mm512_setzero_si512();
            turned(x);
            for (int r = 0; r < LINE; r++) _mm512_storeu_si512(now->pairs + (i / 2 + r) * now->columns + c, x[r]);
        }
}

/* Logits of a stretch of words. */
static void logits_of(const Head *all, const Now *now, count word, count words, const Own *own) {
    const bf16 *weight = all->weight + word * all->weight_row;
    count row = all->weight_row;
    if (words % 32) {
        for (count w = 0; w < words; w++) memcpy(own->last + w * all->width, weight + w * row, (size_t)all->width * 2);
        memset(own->last + words * all->width, 0, (size_t)((WHOLE(words) - words) * all->width) * 2);
        weight = own->last;
        row = all->width;
    }
    product(WHOLE(words), now->columns, all->width, weight, row, now->pairs, now->columns, own->scores, now->columns, 0);
}

static count first_asked(const Head *all, count word) {
    count low = 0, high = all->asked;
    while (low < high) {
        const count middle = (low + high) / 2;
        if (all->targets[middle] < word) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The largest logit and the sum of powers so far, and what is asked for of these words. */
static void count_in(const Head *all, const Now *now, count part, count word, count words, const Own *own) {
    for (count c = 0; c < now->columns; c += LINE) {
        float *most_at = now->most + part * now->columns + c, *sum_at = now->sum + part * now->columns + c;
        const line by = _mm512_set1_ps(LOG2_E), before = _mm512_loadu_ps(most_at);
        line most = before, sum = _mm512_setzero_ps();
        for (count w = 0; w < words; w++)
            most = _mm512_max_ps(most, _mm512_mul_ps(_mm512_loadu_ps(own->scores + w * now->columns + c), by));
        for (count w = 0; w < words; w++) {
            const line x = _mm512_loadu_ps(own->scores + w * now->columns + c);
            sum = _mm512_add_ps(sum, power(_mm512_fmsub_ps(x, by, most)));
        }
        _mm512_storeu_ps(most_at, most);
        _mm512_storeu_ps(sum_at, _mm512_fmadd_ps(_mm512_loadu_ps(sum_at), power(_mm512_sub_ps(before, most)), sum));
    }
    for (count i = first_asked(all, word); i < all->asked && all->targets[i] < word + words; i++) {
        const count c = all->places[i] - now->from;
        if (c >= 0 && c < now->some) all->found[i] = own->scores[(all->targets[i] - word) * now->columns + c];
    }
}

/* What all parts counted; then log-probabilities of what was asked for. */
static void add_up(const Head *all, const Now *now) {
    for (count c = 0; c < now->columns; c++) {
        float most = -LARGE, sum = 0;
        for (count part = 0; part < PARTS; part++) {
            const float other = now->most[part * now->columns + c];
            most = other > most ? other : most;
        }
        for (count part = 0; part < PARTS; part++)
            sum += now->sum[part * now->columns + c] * exp2f(now->most[part * now->columns + c] - most);
        now->most[c] = most;
        now->sum[c] = sum;
    }
    for (count i = 0; i < all->asked; i++) {
        const count c = all->places[i] - now->from;
        if (c < 0 || c >= now->some) continue;
        const float x = all->found[i] * LOG2_E;
        if (all->first) all->first[i] = x >= now->most[c];
        all->found[i] = ((x - now->most[c]) - log2f(now->sum[c])) / LOG2_E;
    }
}

/* onehot(target) - shares, times what it is asked by, to rows of the states. */
static void slopes_of(const Head *all, const Now *now, count word, count words, const Own *own) {
    for (count c = 0; c < now->columns; c += LINE) {
        const line by = _mm512_set1_ps(LOG2_E), norm = _mm512_loadu_ps(now->most + c);
        line times = _mm512_div_ps(_mm512_set1_ps(-1.f), _mm512_loadu_ps(now->sum + c));
        if (all->by) {
            const __mmask16 here = now->some - c >= LINE ? 0xffff : now->some > c ? (1 << (now->some - c)) - 1 : 0;
            times = _mm512_mul_ps(times, _mm512_maskz_loadu_ps(here, all->by + now->from + c));
        }
        for (count w = 0; w < words; w++) {
            float *score = own->scores + w * now->columns + c;
            const line x = _mm512_fmsub_ps(_mm512_loadu_ps(score), by, norm);
            _mm512_storeu_ps(score, _mm512_mul_ps(power(x), times));
        }
    }
    for (count i = first_asked(all, word); i < all->asked && all->targets[i] < word + words; i++) {
        const count c = all->places[i] - now->from;
        if (c >= 0 && c < now->some)
            own->scores[(all->targets[i] - word) * now->columns + c] += all->by ? all->by[all->places[i]] : 1;
    }
    for (count w = 0; w < words; w += LINE)
        for (count c = 0; c < now->some; c += LINE) {
            __m512i x[LINE];
            for (int r = 0; r < LINE; r++) x[r] = _mm512_loadu_si512(own->scores + (w + r) * now->columns + c);
            turned(x);
            const __mmask16 here = words - w >= LINE ? 0xffff : (__mmask16)((1 << (words - w)) - 1);
            for (int r = 0; r < LINE && c + r < now->some; r++)
                _mm256_mask_storeu_epi16(all->slopes + (now->from + c + r) * all->words + word + w, here,
                                         narrow((line)x[r]));
        }
}

static count columns_of(const Head *all) { return WHOLE(all->rows < COLUMNS ? all->rows : COLUMNS); }

static Now rooms_now(const Head *all, char **room) {
    const count columns = columns_of(all);
    return (Now){0, 0, columns, take(room, all->width / 2 * columns * 4), take(room, PARTS * columns * 4),
                 take(room, PARTS * columns * 4)};
}

static Own rooms_own(const Head *all, char **room) {
    return (Own){take(room, STRETCH * columns_of(all) * 4), take(room, STRETCH * all->width * 2)};
}

count head_room_of(const Head *all) {
    char *room = NULL;
    rooms_now(all, &room);
    for (count thread = 0; thread < all->threads; thread++) rooms_own(all, &room);
    return (count)room;
}

void head(const Head *all) {
    char *room = all->room;
    Now now = rooms_now(all, &room);
    _Pragma("omp parallel num_threads(all->threads) if (all->threads > 1)") {
        char *own_room = room;
        Own own = rooms_own(all, &own_room);
        for (int thread = omp_get_thread_num(); thread > 0; thread--) own = rooms_own(all, &own_room);
        begin_products();
        for (count from = 0; from < all->rows; from += COLUMNS) {
            _Pragma("omp single") {
                now.from = from;
                now.some = all->rows - from < COLUMNS ? all->rows - from : COLUMNS;
                now.columns = WHOLE(now.some);
                in_columns(all, &now);
                for (count i = 0; i < PARTS * now.columns; i++) now.most[i] = -LARGE, now.sum[i] = 0;
            }
            for (int pass = 0; pass < (all->slopes ? 2 : 1); pass++) {
                _Pragma("omp for schedule(dynamic)") for (count part = 0; part < PARTS; part++)
                    for (count word = begin_of(all, part), end = begin_of(all, part + 1); word < end; word += STRETCH) {
                        const count words = end - word < STRETCH ? end - word : STRETCH;
                        logits_of(all, &now, word, words, &own);
                        if (pass) slopes_of(all, &now, word, words, &own);
                        else count_in(all, &now, part, word, words, &own);
                    }
                if (!pass) _Pragma("omp single") add_up(all, &now);
            }
        }
        end_products();
    }
}

int head_is_able(void) { return granted(); }
#else
int head_is_able(void) { return 0; }
count head_room_of(const Head *all) { return (void)all, 0; }
void head(const Head *all) { (void)all; }
#endif
