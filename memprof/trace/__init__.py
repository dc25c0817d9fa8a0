"""Engine 2: the real model, optimizer and library code on fake tensors, every storage's life recorded."""
