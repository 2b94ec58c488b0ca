"""Is the node fit? Checks, their findings and one verdict. No torch in the process that judges."""
