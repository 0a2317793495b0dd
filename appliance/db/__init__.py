"""SQLite files: how they are opened, brought up to date, written by one thread and read by many."""
