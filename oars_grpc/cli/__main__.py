"""`python -m oars_grpc.cli` is `oars`."""

from oars_grpc.cli import main

if __name__ == "__main__":
    main()
