"""OARS: decides what AI agents may do, and leaves a signed receipt for every step."""
