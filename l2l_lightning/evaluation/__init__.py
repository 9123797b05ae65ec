"""Contenders side by side, and what is reported of them."""
