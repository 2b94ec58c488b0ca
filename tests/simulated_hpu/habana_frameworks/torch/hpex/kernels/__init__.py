"""`habana_frameworks.torch.hpex.kernels`: FusedSDPA and the rotary kernels exist in name only, and are not usable."""

FusedSDPA = None
