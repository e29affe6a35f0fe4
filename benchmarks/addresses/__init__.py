"""The experiment that made `addresses.safetensors`: MiniLM-L6, tuned to mark whole postal addresses in Latin letters.

    OMP_NUM_THREADS=1 python -m benchmarks.addresses.tune addresses.safetensors

takes a quarter of an hour of one core (45,000 texts, seed 7) and writes 671,000 numbers, 1.35 MB, as `organisations`
does, with a head of two classes. `python benchmarks/data_quality.py` measures it beside patterns; design 0017 says
what came of it. What it learns from, by the share of texts:

    0.50  texts by hand, 15 to 40 from each of 55 countries, in their languages and in English (`marked.txt`, kind T);
          three of four of their addresses are replaced by another one: by hand (A), or Faker's (MIT)
    0.20  texts by hand that only look so (N)
    0.12  sentences with numbers of other kinds, filled (`numbers.txt`)
    0.08  texts of `organisations/marked.txt` in which patterns see no address
    0.10  sums, tasks, examinations and remarks of other work (`organisations/texts.py`)

Digits are drawn anew, addresses written in lines, without commas, in small letters or capitals. Those who wrote the
texts had seen neither the rows that measure (`postal_values.toml`, `postal_sentences.py`) nor a rule.
"""
