"""`python -m service`, for processes that start another one: no script has to be on the path."""

from service.cli.main import app

app(prog_name="ret2")
