"""The commands of `mome`, one module per family."""
