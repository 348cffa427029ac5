"""Collections, jobs, batches and failures in SQL: what was accepted, what is done, what is not.

A job, its batches and its failures change in one transaction. One code path for SQLite (WAL, full sync), where one
process has it for itself, and PostgreSQL, where any number of them share it. Times are Unix seconds.
"""
