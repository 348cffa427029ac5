"""Write the next version of the ledger's schema: `python -m indexer.ledger.sql.migrations MESSAGE`."""

import sys

from indexer.ledger.sql.migrations import write_revision

if __name__ == "__main__":
    sys.stdout.write(f"{write_revision(sys.argv[1])}\n")
