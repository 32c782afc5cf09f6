"""What zeros are good for: networks made smaller, or run by their kept weights alone."""
