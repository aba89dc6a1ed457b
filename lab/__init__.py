"""A workbench that answers one question with evidence: which configuration of a language model should I ship?"""

__version__ = "0.1.0"
