"""What `sandbox.py` measures, apart from how it is told."""
