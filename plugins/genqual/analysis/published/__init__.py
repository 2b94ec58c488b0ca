"""Published tables as records, with their claims and prices."""
