"""Where a method falls short on a dataset: what is trained for it, what is measured, and what is said of it."""
