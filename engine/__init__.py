"""What is compared with what, in which order, and what the numbers mean."""
