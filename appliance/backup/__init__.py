"""Backups: what is in one, the file it is, and how it comes back."""
