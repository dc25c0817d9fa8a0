"""Op rules: what each op allocates, what autograd saves of it, and what its backward allocates, in order.

One function an op, named as in PyTorch; each cites the derivative or kernel that it follows. Derivatives are those of
torch 2.13 (tools/autograd/derivatives.yaml, torch/csrc/autograd/FunctionsManual.cpp).
"""
