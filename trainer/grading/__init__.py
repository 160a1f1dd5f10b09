"""How answers are compared: text, values, and math-verify behind a pool of processes."""
