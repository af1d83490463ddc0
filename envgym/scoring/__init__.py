"""Scores as pure functions of predictions and truths: no Evidence, no environment, no model."""
