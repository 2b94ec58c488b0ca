"""Is it slower than its baseline? Launches, baseline files, the decision and its control."""
