"""The commands of `sti`, one module each: they parse, call and print."""
