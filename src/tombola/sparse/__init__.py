"""A ticket's network at a ticket's cost: on a CPU, by its kept weights alone.

Nothing here is imported before it is used: it needs numba, which the extra tombola[fast] brings.
"""
