"""`habana_frameworks.torch.distributed`: the cards of one host together."""
