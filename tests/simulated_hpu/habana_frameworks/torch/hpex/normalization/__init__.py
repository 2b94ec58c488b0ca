"""`habana_frameworks.torch.hpex.normalization`: no FusedRMSNorm."""
