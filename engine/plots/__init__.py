"""Pictures of a sweep's results, drawn with matplotlib (the extra `plot`), which is imported only when asked for."""
