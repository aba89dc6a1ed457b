"""Blind rating by people: tasks over recorded generations, saved as MLflow feedback, summed up with intervals."""

from lab.ops.ratings.gold import Gold, gold_from
from lab.ops.ratings.rating import Asked, Control, Progress, controls, named, next_item, progress, raters, save, undo
from lab.ops.ratings.results import export, rankings, scores
from lab.ops.ratings.summary import Disagreement, Summary, summary
from lab.ops.ratings.task import Task, create, load, tasks, with_generations

__all__ = ["Asked", "Control", "Disagreement", "Gold", "Progress", "Summary", "Task", "controls", "create", "export", "gold_from",
           "load", "named", "next_item", "progress", "rankings", "raters", "save", "scores", "summary", "tasks", "undo",
           "with_generations"]
