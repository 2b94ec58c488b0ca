"""The plugin: options, selection, outcomes and exit codes, as a user sees them."""
