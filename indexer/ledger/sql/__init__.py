"""The foundation of the ledger's parts: engines, schema and its migrations, transactions, leases, rows."""
