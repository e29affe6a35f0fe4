"""OpenAI's API for files and fine-tuning jobs: a door beside the gateway's, behind the same keys.

bodies.py   what clients may send
shapes.py   files, jobs and events as OpenAI has them
upload.py   a file that comes as a form, straight to the disk
files.py    /v1/files
jobs.py     /v1/fine_tuning/jobs
models.py   DELETE /v1/models/{ft:…}
"""
