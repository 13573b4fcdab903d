"""The bench: what is sent, what is read off the programs, and how it is told."""
