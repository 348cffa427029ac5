"""What every part of the ledger stands on: engines, schema and its migrations, transactions, leases, rows."""
