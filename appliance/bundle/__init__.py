"""One file with everything that a box without a network needs."""
