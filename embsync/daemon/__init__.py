"""The daemon: watches the directory of snapshots and publishes each new one with the pipeline."""
