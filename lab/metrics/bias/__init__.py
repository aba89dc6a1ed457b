"""Bias: which of two versions that differ in a group of people a model prefers, and how differently it speaks of groups.

`contrasts` reads the sets of paired sentences, `preference` asks a model which it finds more likely; `bbq` scores questions
that invite a stereotype; `tone` reads sentiment, toxicity, refusal and length off generated text, `people` has the templates
that are asked about each group, and `gaps` says what a difference is worth.
"""
