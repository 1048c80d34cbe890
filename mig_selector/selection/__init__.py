"""Which rows to choose: the objective (the mathematics) and the greedy search for it (the kernel)."""
