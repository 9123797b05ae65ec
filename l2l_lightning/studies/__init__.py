"""Commands that make one table and one figure out of several runs."""
