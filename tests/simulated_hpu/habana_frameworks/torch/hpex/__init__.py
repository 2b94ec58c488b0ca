"""`habana_frameworks.torch.hpex`: fused kernels. Here are none, so optimum-habana takes its plain paths."""
