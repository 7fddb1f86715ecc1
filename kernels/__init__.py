"""The hot loops, and nothing else: arrays in, sums out, no names and no files."""
