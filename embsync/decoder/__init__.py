"""The process that parses tables (parquet, Arrow, CSV), so that a malformed file can only harm this process.

Started by :mod:`embsync.snapshots.decoder_process`. Nothing else imports this package.
"""
