"""`python -m nerfstudio_ext.kernels.bench_cuda`: what the CUDA kernels are worth on this machine, measured in one run.

Needs torch, numpy and pillow only, so that it runs on a bare machine with a GPU. Ceilings first, then correctness, and
times only of what is correct. Results are written after every phase: a run that is cut short is worth something.
"""
