"""`python -m streams.cli`: the same as `tidemill`."""

from streams.cli.app import main

main()
