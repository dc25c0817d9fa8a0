"""Engine 3, what really happened: readers of recorded runs and what they say about who held the memory."""
