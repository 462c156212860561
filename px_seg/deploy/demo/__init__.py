"""A local page on which networks are seen side by side."""
