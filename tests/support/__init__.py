"""What several test modules share: oracles written independently of the package, and real checkpoints."""
