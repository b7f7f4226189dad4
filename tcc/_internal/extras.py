"""Imports of what the SDK's extras bring."""


def missing_extra(what: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that names the command that installs what `what` could not import."""
    top = (error.name or "").partition(".")[0]
    return ModuleNotFoundError(f"{what} needs {top}: pip install 'tcc[{extra}]'", name=error.name)
