"""Gradients of a policy's value through a model, or past it; `per_sample.py` is where to begin."""
