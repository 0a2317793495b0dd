"""Who the people are that run the box, and what they may do."""
