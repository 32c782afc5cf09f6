"""Vectors, randomness, cost, and parts with their options; knows no model."""
