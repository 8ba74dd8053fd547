"""Reports from stored runs only: figures (PNG and CSV) and one self-contained HTML page."""
