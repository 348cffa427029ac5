"""Bulk imports: find files, plan their parts, read records, map columns and check documents."""
