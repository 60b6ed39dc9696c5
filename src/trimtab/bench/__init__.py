"""The bench: workloads on real data, and the demo."""
