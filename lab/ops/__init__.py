"""Operations: what is kept of every run, and what is done with it afterwards."""
