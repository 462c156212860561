"""Criteria: what a weight is worth. A criterion only scores; `prune` ranks and masks.

Every module of this folder is imported, so a criterion that one registers is known by its name at once.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
