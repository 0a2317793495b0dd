"""What is wrong with the box, why it matters, and what to do: see README.md."""
