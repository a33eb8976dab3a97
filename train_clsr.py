"""Train a contrastive language-speech retriever.

    accelerate launch train_clsr.py --config recipes/sanm_tiny.yaml
    accelerate launch train_clsr.py --config recipes/selfdistil.yaml --learning_rate 1e-6 --max_steps 500
    torchrun --nproc_per_node 2 train_clsr.py --config recipes/joint.yaml --use_cpu True   # two CPU processes

A run that was cut off goes on from its last checkpoint when the same command is given again. See docs/training.md.
"""

import sys

from modeling_clsr.training.arguments import parse_arguments
from modeling_clsr.training.run import run


def main() -> None:
    """Parse, run; one line for what the user can mend."""
    try:
        run(*parse_arguments(sys.argv[1:])).finish()
    except (ValueError, FileNotFoundError, ImportError) as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(f"train_clsr.py: {error}")


if __name__ == "__main__":
    main()
