"""Datasets as files: read and written in every format that users have, each with a card that says what is in it."""
