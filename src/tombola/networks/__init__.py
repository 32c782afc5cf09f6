"""A user's model made runnable under masks."""
