"""Pure functions and dataclasses: no Lightning, no data sets, no files."""
