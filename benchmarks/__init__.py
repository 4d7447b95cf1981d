"""Side-by-side measurements; each script prints its own table and states whether it ran cold or warm."""
