"""Read by pytest in a checkout. The plugin itself comes by entry point, as in an installed wheel; no logic here."""

pytest_plugins = ["pytester"]
