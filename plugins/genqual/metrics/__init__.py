"""How fast is it? Definitions, measurement, roofline, utilisation and service-level limits."""
