"""Keeps the libraries' progress bars and notices out of the commands' own output."""

import logging


def quiet_libraries() -> None:
    """Silence bars and notices of datasets, transformers and accelerate; warnings and errors still come through."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.WARNING)
