"""What is remembered, and under which name."""
