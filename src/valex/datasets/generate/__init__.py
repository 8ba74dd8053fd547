"""Generators: datasets made here, without a download, the same for the same seed, each with its card."""
