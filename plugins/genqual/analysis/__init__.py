"""What do results say? Comparisons, tables and the page."""
