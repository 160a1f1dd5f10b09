"""The one place that knows verl."""
