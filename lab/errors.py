"""The one error a user of the workbench reads: a sentence that says what was wrong and what to do."""


class LabError(Exception):
    """Something the user can mend. Its text is one sentence, shown without a traceback; the process exits with 2."""
