"""Against the real optimum-habana 1.21.2, over the stand-in: `tox -e hpu-contract`."""
