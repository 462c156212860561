"""The two path streams of PX over any network built on torch functions, and the bound that they make."""
