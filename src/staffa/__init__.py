"""Staffa: tens of thousands of JAX sampling experiments, and an archive to ask."""
