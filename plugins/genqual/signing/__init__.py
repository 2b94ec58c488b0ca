"""What can be believed of a run's records: a manifest that chains them, signatures over it, and audits."""
