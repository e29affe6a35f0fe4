"""What a transformer computes between its matrix products, in C: norms, gates and attention's shares in bfloat16.

Torch makes a pass over memory for each operation; the kernels of `bf16.c` make one for all of them. They are compiled
where a C compiler stands, in a second, once for a user and a processor; held against torch; measured beside it; and
used when they are right and quicker. Where anything is missing, torch computes, with the same result but for the last
bits. `CC=false` keeps to torch.
"""
