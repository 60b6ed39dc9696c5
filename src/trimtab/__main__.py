"""`python -m trimtab`, the same as the command `trimtab`."""

from trimtab.cli import app

app(prog_name="trimtab")
