"""A ticket's network at a ticket's cost: run by its kept weights alone, or made smaller.

What runs needs numba, which the extra tombola[fast] brings; it is imported where it is used.
"""
