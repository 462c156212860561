"""Datasets, found by name in one registry, transforms and loaders."""
