"""``python -m edge_grpo``: the command line, and what each of several processes runs."""

from edge_grpo.base.ranks import own_rank
from edge_grpo.cli.main import main

if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if own_rank() is not None:
            from edge_grpo.base.world import leave  # imports torch, as every rank has

            leave(end.code)
        raise
