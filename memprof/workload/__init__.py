"""The real objects of a scenario: model, optimizer, batches, and the loop that runs them.

Two engines need the same ones - ``trace`` runs them on fake tensors, ``measure`` on a device - and engines do not
import each other, so what they share lives here, below both. Everything in this package needs torch, which is imported
inside functions.
"""
