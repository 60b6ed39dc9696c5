"""Control: the services of `fit`: micro-batches that fit into memory, early stopping, workers, weights on disk."""
