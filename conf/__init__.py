"""What can be set: the typed schema, the YAML that fills it in, and the one place that knows Hydra."""
