"""The process that parses tables (parquet, Arrow, CSV), so that whatever a file makes a parser do happens to it alone.

Started by :mod:`embsync.snapshots.decoder_process`. Nothing else imports this package.
"""
