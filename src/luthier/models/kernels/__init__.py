"""What a transformer computes beside its large products, and some of these, in C and in bfloat16.

Torch makes a pass over memory for each operation; `bf16.c` makes one for all of a norm's, a gate's or a softmax's, and
`attention.c` and `head.c` keep scores and logits within the processor's caches. `linear.c` multiplies with weights and
their adapters at once, where a processor has products of pairs and no tiles. They are compiled where a C compiler
stands, in a second, once for a user and a processor; held against torch; measured beside it; and used when they are
right and quicker. Where anything is missing, torch computes, with the same result but for the last bits. `CC=false`
keeps to torch.
"""
