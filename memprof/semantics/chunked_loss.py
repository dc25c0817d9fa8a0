"""``loss: chunked``, as torchtune's ``LinearCrossEntropyLoss`` has it by default.

Positions without a label are left out of the last hidden states; what remains is cut into chunks of tokens. Each chunk
goes through the head, its logits become float32, and their cross-entropy is summed up; the sum is divided by the number
of labels. So the logits exist for one chunk at a time, and autograd keeps the logarithms of probabilities of all.
Labels come shifted from the data set: the last position of a sequence has none.

Source: https://github.com/pytorch/torchtune/blob/main/torchtune/modules/loss/cross_entropy_loss.py,
torchtune/datasets/_sft.py.
"""

from __future__ import annotations

NUM_CHUNKS = 8
"""``num_output_chunks``."""

IGNORED = -100
"""``ignore_index``: the label of a position that has none."""


def chunk_sizes(num_tokens: int) -> list[int]:
    """Tokens of each chunk: the first ones have one more where they cannot all have the same.

    Source: ATen/native/TensorShape.cpp, ``tensor_split``.
    """
    size, more = divmod(num_tokens, NUM_CHUNKS)
    return [size + (chunk < more) for chunk in range(NUM_CHUNKS)]
