"""Sinks, the encoders they share, and the Prometheus exposition."""
