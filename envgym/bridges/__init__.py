"""Worlds that others made, behind the same contract as our own. One file a kind of world."""
