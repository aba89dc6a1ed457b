"""`lab story`: real work told from beginning to end, each step done and measured, nothing typed in."""
