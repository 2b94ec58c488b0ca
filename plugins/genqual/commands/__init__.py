"""The subcommands of `genqual`, one file a subject; `genqual.cli` imports each only when it is used."""
