"""What PIE-Bench compares: zero-shot methods with their teacher, and model files, each ready to edit its images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.config.naming import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.pie_bench.cases import PieCase
    from distill.studies.methods import Method
    from inference.runtime import Translator
    from synth.settings import TeacherSettings
    from synth.teacher.teacher import Teacher

DO_NOTHING = "do-nothing"
ZERO_SHOT: Mapping[str, Mapping[str, Any]] = {
    DO_NOTHING: {},
    "sds": {"method": "sds", "iterations": 400},
    "regularized-sds": {"method": "regularized-sds", "iterations": 400},
    "dds": {},
    "dds-firm": {"firm_threshold": 2.0},
}
"""Name -> what it sets; the rest is the teacher's own. All but the first spend the same number of network calls."""
STUDENT = "student"
METHODS = (*ZERO_SHOT, STUDENT)


@dataclass(frozen=True)
class Contender:
    """A method as it runs here."""

    name: str
    identity: str
    """All that its edits follow from, beside the image: settings, and the fingerprint of its model."""
    takes: "Callable[[PieCase], bool]"
    edit: "Callable[[Sequence[PieCase]], list[NDArray[np.uint8]]]"
    check: "Callable[[Sequence[PieCase]], None]" = lambda cases: None
    """Refuses what it cannot edit, before any image is edited."""


def contenders(names: Sequence[str], teacher: "TeacherSettings", model: Path | None) -> list[Contender]:
    """Make the methods ready, in the order of METHODS.

    Args:
        names: of METHODS.
        teacher: for those that need one; it is opened for them alone.
        model: a model file, for the student.
    """
    from distill.optimization import completed
    from distill.settings import EditSettings
    from distill.studies.methods import Optimized
    from flows.shared_teacher import open_teacher

    made = []
    for name in (name for name in METHODS if name in names):
        if name == STUDENT:
            assert model is not None, "the command asks for it"
            made.append(of_model(name, model))
        elif name == DO_NOTHING:
            made.append(of_doing_nothing(name))
        else:
            opened = open_teacher(teacher)
            settings = completed(EditSettings(**ZERO_SHOT[name]), opened)
            made.append(of_method(name, Optimized(settings), opened))
    return made


def of_doing_nothing(name: str) -> Contender:
    """The images as they are, without a teacher."""
    return Contender(name, digest(name), lambda case: True, lambda cases: [case.example().image for case in cases])


def of_method(name: str, method: "Method", teacher: "Teacher") -> Contender:
    """A zero-shot method with its teacher.

    Raises:
        TeacherError: if the teacher cannot score.
    """
    teacher.require_scorer()
    identity = digest(repr(method), teacher.fingerprint)

    def edit(cases: "Sequence[PieCase]") -> "list[NDArray[np.uint8]]":
        return method(teacher, [case.example() for case in cases])

    def check(cases: "Sequence[PieCase]") -> None:
        teacher.check_prompts([text for case in cases for text in (case.source_prompt, case.prompt)])

    return Contender(name, identity, lambda case: True, edit, check)


def of_model(name: str, model: Path) -> Contender:
    """A model file, or the pointer to one: it takes the cases whose edited words name one of its edits.

    Raises:
        TranslatorError: if the file cannot be opened.
    """
    from hashlib import file_digest

    import numpy as np

    from inference.pointer import resolved
    from inference.runtime import Translator

    model = Path(resolved(str(model)))
    translator = Translator.load(model)
    with model.open("rb") as file:
        identity = file_digest(file, "sha256").hexdigest()

    def edit(cases: "Sequence[PieCase]") -> "list[NDArray[np.uint8]]":
        edits = [edit_of(case, translator) for case in cases]
        return [
            np.asarray(translator(case.example().pil_image, name))
            for case, name in zip(cases, edits, strict=True)
            if name is not None
        ]

    return Contender(name, identity, lambda case: edit_of(case, translator) is not None, edit)


def edit_of(case: "PieCase", translator: "Translator") -> str | None:
    """Find the edit of a model file that a case asks for: all words of its name stand in the case's brackets.

    The one with the most words wins; where two have as many, the case fits neither.
    """
    from distill.pie_bench.cases import words_of

    fitting = [edit for edit in translator.edits if set(words_of(edit)) <= case.edited_words]
    most = max((len(words_of(edit)) for edit in fitting), default=0)
    best = [edit for edit in fitting if len(words_of(edit)) == most]
    return best[0] if len(best) == 1 else None
