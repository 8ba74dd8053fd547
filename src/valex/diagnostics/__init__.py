"""Measurements on an agent that training itself does not need."""
