"""``dpsolve report``: a store as one page of HTML."""
