"""Where records are kept: spool, directories, sinks."""
