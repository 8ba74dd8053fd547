"""Dynamics models under one contract (`valex.types.Model`), registered in `valex.tables.MODELS`."""
