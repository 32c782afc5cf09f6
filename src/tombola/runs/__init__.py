"""One cell, from options to result."""
