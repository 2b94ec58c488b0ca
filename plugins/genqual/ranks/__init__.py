"""Where it runs: launch, pool of live groups, rank worker, channel, deadlines."""
