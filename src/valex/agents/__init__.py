"""Learners, one file each, registered in `valex.tables.AGENTS`."""
