"""How often the gate errs: it is run on edits that change nothing and on edits that add counted work, under load."""
