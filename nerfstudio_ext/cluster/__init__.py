"""Work beyond one process: frames on a Ray cluster, and many captures from one manifest."""
