"""The learning: pure modules, and `trainer.backend`, the one folder that knows verl."""
