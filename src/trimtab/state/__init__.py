"""State that can be restored: snapshots in memory, buffers, random numbers."""
