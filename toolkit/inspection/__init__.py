"""A look at a dataset before anything is trained on it: survey.py has the program look, page.py and table.py show what it found."""
