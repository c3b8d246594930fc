"""How it is computed: one operation per file, each kernel beside a plain reference.

Nothing here knows of requests, messages or models. `tokenreel.kernels.backend` is the door;
importing it needs torch alone, and triton is imported where a CUDA device has been chosen.
"""
