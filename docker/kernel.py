"""Proves that torch sees a card and that its kernels run there: those of torch itself and those of cuBLAS.

Exit codes: 0 they do, 1 they do not: one line says why.
"""

from __future__ import annotations

import sys

from versions import has_kernels


def prove() -> str:
    """Runs a matrix product and a GELU on the card and compares them with the CPU's.

    Raises:
        RuntimeError: there is no card, no kernel for it, or it computes something else.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device; start the container with --gpus all")
    card = "sm_{}{}".format(*torch.cuda.get_device_capability())
    built_for = torch.cuda.get_arch_list()
    if not has_kernels(card, built_for):
        raise RuntimeError(f"torch {torch.__version__} has no kernels for {card}; it has {', '.join(built_for)}")
    # Whole numbers this small are exact in bfloat16, and so are their products' sums in float32.
    left, right = (torch.randint(-4, 5, (256, 256), dtype=torch.bfloat16) for _ in range(2))
    product = (left.cuda() @ right.cuda()).float().cpu()
    torch.testing.assert_close(product, left.float() @ right.float(), rtol=2**-8, atol=0)
    smooth = torch.nn.functional.gelu(product.cuda()).cpu()
    torch.testing.assert_close(smooth, torch.nn.functional.gelu(product))
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}: kernels for {card} run"


if __name__ == "__main__":
    try:
        print(prove())
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"error: {error}")
