"""Environments: pure functions on one instance, without a clock; `base.make_env` builds one from its config."""
