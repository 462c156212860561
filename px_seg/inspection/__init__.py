"""Datasets looked at before anything learns from them."""
