"""The parts of a judge: rubric, prompts, asking, reading, keeping, and how far a judge may be trusted."""
