"""Who did what to the box, in a log that shows when it was tampered with, and forgetting a person."""
