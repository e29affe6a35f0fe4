"""Compiled C kernels for bfloat16 on a CPU: norms, gates, softmax, attention, output heads and linear layers.

Torch makes a pass over memory for each operation. `bf16.c` makes one pass for a whole norm, gate or softmax;
`attention.c` and `head.c` keep scores and logits in the processor's caches; `linear.c` multiplies with weights and
adapters at once, on processors with dot products of pairs and without tiles. A C compiler builds them in a second, once
for a user and a processor. Each kernel is compared and timed with torch and used only where it is correct and faster.
Otherwise torch computes, with the same result except for the last bits. `CC=false` turns the kernels off.
"""
