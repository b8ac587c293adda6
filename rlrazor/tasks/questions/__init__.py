"""Questions on the host: examples from JSON lines, and judges of what a model answers to them."""
