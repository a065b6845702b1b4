"""Frozen values and pure decisions: no clock, no chance, no I/O."""
