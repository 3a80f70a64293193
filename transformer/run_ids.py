"""What can be the id of an MLflow run: it becomes a part of paths, addresses and command lines."""


def is_run_id(text: str) -> bool:
    """Whether a text is no option, no path out of the folder of runs, and nothing that no argument can hold."""
    return bool(text) and text.isprintable() and not text.startswith(("-", ".")) and not set("/\\ ") & set(text)
