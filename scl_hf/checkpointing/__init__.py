"""What keeps a run from being lost, or from going wrong unseen: whole checkpoints, signals, finite numbers, disks."""
