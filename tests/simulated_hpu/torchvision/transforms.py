"""`torchvision.transforms`, empty."""
