"""What an error from opening a model means, and what to do about it."""

from synth.errors import TeacherError


def explain(name: str, error: Exception) -> TeacherError:
    """Turn an error from opening a model into one that says what went wrong and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return TeacherError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return TeacherError(
            f"there is no model {name!r}, neither a folder nor on the Hub (ids move: look it up); "
            "for a private one, run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return TeacherError(f"{name} has no such revision: check teacher.revision")
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError) or _is_transport(error):
        return TeacherError(
            f"{name} is not on this machine and the Hub cannot be reached: "
            "connect, or name a folder in diffusers' format"
        )
    if isinstance(error, errors.HFValidationError):
        return TeacherError(f"{name!r} is neither a folder nor a Hub id (owner/name)")
    reason = " ".join(str(error).split()) or type(error).__name__
    return TeacherError(f"{name} cannot be opened as a Stable Diffusion pipeline: {reason}")


def _is_transport(error: Exception) -> bool:
    """The Hub's client has changed its HTTP library, and the two raise unrelated errors."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
