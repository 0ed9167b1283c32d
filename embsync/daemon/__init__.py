"""The daemon: watches where training runs leave snapshots and publishes each by the pipeline, for months."""
