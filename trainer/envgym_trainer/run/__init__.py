"""The run folder and its content: metrics, records, provenance, display, model card."""
