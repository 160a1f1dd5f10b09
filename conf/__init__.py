"""What can be set: the typed schema, the YAML that fills it in, and all that knows Hydra."""
