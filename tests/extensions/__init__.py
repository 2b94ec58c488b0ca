"""One folder an extension: a package of somebody else, installed by its folder on PYTHONPATH. Nothing is edited."""
