"""Offline RL: datasets, values and policies learned from them apart, and what improves a policy at test time."""
