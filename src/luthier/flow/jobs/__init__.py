"""Fine-tuning jobs: files that were uploaded, recipes written from wishes, and runs that follow one another.

records.py   what a file, a wish and a job are
files.py     files: their bytes below the store, their rows in the ledger
book.py      jobs in the ledger: how one state follows another
check.py     whether a file can be learnt from, line by line
writing.py   the recipe that a wish comes to
journal.py   a job's events, from its own journal and from those of its runs
process.py   the process that runs a recipe
results.py   what is told of a finished job
runner.py    jobs run one after another, as long as a server stands
desk.py      all of it, as the doors ask it
"""
