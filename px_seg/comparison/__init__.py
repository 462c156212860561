"""Pruned networks compared without training them."""
