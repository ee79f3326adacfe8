"""``python -m edge_grpo``: the command line."""

from edge_grpo.cli.main import main

if __name__ == "__main__":
    main()
