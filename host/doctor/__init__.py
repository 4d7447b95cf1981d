"""`sti doctor`: what a machine and a device are like, judged, with what to do about it."""
