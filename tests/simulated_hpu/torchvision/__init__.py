"""optimum-habana imports torchvision for models of images; Habana's containers have it, text needs none of it."""
